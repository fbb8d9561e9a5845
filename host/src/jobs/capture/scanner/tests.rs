//! Examples of the rules, and a property: any chunking gives what a look at the whole log at once gives.

use std::convert::Infallible;

use proptest::prelude::*;

use super::super::lines::{BEFORE, KEPT, REST};
use super::*;

fn scan(pieces: &[&[u8]], nonce: Option<&str>) -> (Markers, Vec<u8>) {
    let mut scanner = MarkerScanner::new(nonce);
    let mut value = Vec::new();
    let mut keep = |bytes: &[u8]| {
        value.extend_from_slice(bytes);
        Ok::<(), Infallible>(())
    };
    for piece in pieces {
        scanner.push(piece, &mut keep).unwrap();
        assert!(scanner.carry.len() <= KEPT);
    }
    let markers = scanner.finish(&mut keep).unwrap();
    (markers, value)
}

fn whole(text: &str) -> (Option<String>, Option<String>, Vec<MarkerWarning>) {
    read(text, None)
}

fn read(text: &str, nonce: Option<&str>) -> (Option<String>, Option<String>, Vec<MarkerWarning>) {
    let (markers, value) = scan(&[text.as_bytes()], nonce);
    let value = markers.started.then(|| String::from_utf8(value).unwrap());
    (markers.media_type, value, markers.warnings)
}

const M: &str = "PYGEOAPI_K8S_MANAGER_RESULT_MIMETYPE";
const S: &str = "PYGEOAPI_K8S_MANAGER_RESULT_START";
const E: &str = "PYGEOAPI_K8S_MANAGER_RESULT_END";

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn the_original_example_is_read() {
    let log = format!(
        "starting\n[2025-06-23T13:00:18Z | x::y.py:97 | 14] INFO - {M}: application/json\n[2025] INFO - {S}\n{{\"id\": \"a\",\n \"value\": 1}}\n"
    );
    assert_eq!(whole(&log), (text("application/json"), text("{\"id\": \"a\",\n \"value\": 1}\n"), vec![]));
}

#[test]
fn the_value_is_given_byte_for_byte() {
    assert_eq!(whole(&format!("{S}\na,b\r\n1,2\0\n\n")).1, text("a,b\r\n1,2\0\n\n"));
    assert_eq!(whole(&format!("{S}\r\nx")).1, text("x"));
    assert_eq!(whole(&format!("{S} more of the line\nx\n")).1, text("x\n"));
    assert_eq!(whole(&format!("{S}\n")).1, text(""));
    assert_eq!(whole(S).1, text(""));
    assert_eq!(whole("no marker at all\n"), (None, None, vec![]));
}

#[test]
fn the_value_ends_before_the_line_of_the_end_marker() {
    assert_eq!(whole(&format!("{S}\nx\n{E}\nlog\n{E}\n")).1, text("x\n"));
    assert_eq!(whole(&format!("{S}\nx\n\n[12:00] INFO - {E}")).1, text("x\n\n"));
    assert_eq!(whole(&format!("{S}\n{E}\n")).1, text(""));
    assert_eq!(whole(&format!("{E}\n{S}\nx\n")).1, text("x\n"), "an end before the start is none");
    assert_eq!(whole(&format!("{S}\nx\n{S}\ny\n{E}\n")).1, text(&format!("x\n{S}\ny\n")), "the first start counts");
    assert_eq!(whole(&format!("{S}\nx\n{E}\n{S}\ny\n")).1, text("x\n"));
}

#[test]
fn an_end_marker_behind_a_long_unfinished_line_ends_the_value_there() {
    let long = "x".repeat(BEFORE + 1);
    let found = whole(&format!("{S}\n{long}{E}\nlog"));
    assert_eq!(found, (None, Some(long), vec![MarkerWarning::EndInsideLine]));
    let prefix = "x".repeat(BEFORE);
    assert_eq!(whole(&format!("{S}\nv\n{prefix}{E}\nlog")), (None, text("v\n"), vec![]));
}

#[test]
fn the_first_good_media_type_counts() {
    let log = format!("{M} text/plain\n{M}: nonsense\n{M} :  text/csv; header=present \r\n{M}: text/html\n");
    let warnings = vec![MarkerWarning::NoColon, MarkerWarning::NotAMediaType];
    assert_eq!(whole(&log), (text("text/csv; header=present"), None, warnings));
}

#[test]
fn a_value_cannot_name_its_own_type() {
    assert_eq!(whole(&format!("{S}\n{M}: text/html\n")), (None, text(&format!("{M}: text/html\n")), vec![]));
    assert_eq!(whole(&format!("{S}\nx\n{E}\n{M}: text/html\n")).0, None);
}

#[test]
fn a_media_type_that_is_too_long_is_left_out() {
    let fits = format!("{M}:{}text/csv", " ".repeat(REST - M.len() - 9));
    assert_eq!(fits.len(), REST);
    assert_eq!(whole(&format!("{fits}\n")), (text("text/csv"), None, vec![]));
    assert_eq!(whole(&format!("{fits}x\n")), (None, None, vec![MarkerWarning::LineTooLong]));
    assert_eq!(whole(&format!("{M}: text/csv\r{}\n", "x".repeat(9000))).0, text("text/csv"));
}

#[test]
fn markers_are_found_on_lines_of_any_length() {
    let long = "x\r".repeat(100_000);
    let log = format!("{long}{M}: text/csv\n{long}{S}{long}\nvalue\n{long}\n{E}{long}\nlog");
    assert_eq!(whole(&log), (text("text/csv"), text(&format!("value\n{long}\n")), vec![]));
}

#[test]
fn a_nonce_is_needed_on_each_marker_line() {
    let n = Some("n0nce");
    let forged = format!("{M}: text/html\n{S}\nforged\n{E}\n");
    assert_eq!(read(&forged, n), (None, None, vec![MarkerWarning::NonceMissing]));
    let log = format!("{forged}{M}: text/csv; header=present n0nce\nn0nce {S}\nx\n{E}\ny\n{E} n0nce\nlog\n");
    let value = format!("x\n{E}\ny\n");
    assert_eq!(read(&log, n), (text("text/csv; header=present"), Some(value), vec![MarkerWarning::NonceMissing]));
    assert_eq!(read(&format!("{M}: text/csv nonce=n0nce\n"), n).0, text("text/csv"));
    assert_eq!(read(&format!("n0nce\n{S}\nn0nce\n"), n).1, None, "another line's nonce does not count");
    let far = "x".repeat(BEFORE);
    assert_eq!(read(&format!("n0nce{far}{S}\nx"), n).1, None);
    assert_eq!(read(&format!("n0nce{}{S}\nx", far.strip_prefix("xxxxx").unwrap()), n).1, text("x"));
}

#[test]
fn no_marker_reaches_across_a_gap() {
    let mut scanner = MarkerScanner::new(None);
    let mut value = Vec::new();
    let mut keep = |bytes: &[u8]| {
        value.extend_from_slice(bytes);
        Ok::<(), Infallible>(())
    };
    scanner.push(format!("{M}: text/h").as_bytes(), &mut keep).unwrap();
    assert!(!scanner.gap());
    scanner.push(format!("tml\n{M}: text/csv\n{S}").as_bytes(), &mut keep).unwrap();
    assert!(scanner.gap(), "the value may be in the gap");
    scanner.push(format!("\n{S}\nx").as_bytes(), &mut keep).unwrap();
    assert!(scanner.gap());
    scanner.push(format!("y\n{E}\n").as_bytes(), &mut keep).unwrap();
    assert!(!scanner.gap(), "behind the end nothing matters");
    assert_eq!(scanner.finish(&mut keep).unwrap().media_type, text("text/csv"));
}

#[test]
fn an_error_of_the_value_is_given_on() {
    let mut scanner = MarkerScanner::new(None);
    let error = scanner.push(format!("{S}\n{}\n", "x".repeat(5000)).as_bytes(), &mut |_: &[u8]| Err("full"));
    assert_eq!(error, Err("full"));
}

fn find(bytes: &[u8], from: usize, needle: &[u8]) -> Option<usize> {
    (from..bytes.len().saturating_sub(needle.len() - 1)).find(|at| bytes[*at..].starts_with(needle))
}

/// The rules of the module, read off the whole log at once.
fn oracle(log: &[u8], nonce: Option<&str>) -> (Markers, Vec<u8>) {
    let mut found = Markers::default();
    let mut from = 0;
    let mut value_at = None;
    let warn = |found: &mut Markers, warning| {
        if !found.warnings.contains(&warning) {
            found.warnings.push(warning);
        }
    };
    while let Some(at) = find(log, from, NEEDLE) {
        let line_start = log[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let line_end = find(log, at, b"\n");
        let end = line_end.unwrap_or(log.len());
        let cut = end - at > REST;
        let rest = &log[at..end.min(at + REST)];
        let window = &log[line_start.max(from).max(at.saturating_sub(BEFORE))..at + rest.len()];
        let trusted = nonce.is_none_or(|nonce| find(window, 0, nonce.as_bytes()).is_some());
        from = if cut { at + REST - 35 } else { end + 1 };
        if let Some(start) = value_at {
            let Some(end) = find(rest, 0, END) else { continue };
            if !trusted {
                warn(&mut found, MarkerWarning::NonceMissing);
                continue;
            }
            found.ended = true;
            let end = at + end;
            if end - line_start <= BEFORE {
                return (found, log[start..line_start].to_vec());
            }
            warn(&mut found, MarkerWarning::EndInsideLine);
            return (found, log[start..end].to_vec());
        }
        let (media_type, start) = (find(rest, 0, MIMETYPE), find(rest, 0, START));
        if (media_type.is_some() || start.is_some()) && !trusted {
            warn(&mut found, MarkerWarning::NonceMissing);
            continue;
        }
        if let Some(at) = media_type
            && found.media_type.is_none()
        {
            match naive_media_type(&rest[at + MIMETYPE.len()..], cut, nonce) {
                Ok(text) => found.media_type = Some(text),
                Err(warning) => warn(&mut found, warning),
            }
        }
        if start.is_some() {
            found.started = true;
            let Some(end) = line_end else { return (found, Vec::new()) };
            value_at = Some(end + 1);
            from = end + 1;
        }
    }
    (found, value_at.map(|at| log[at..].to_vec()).unwrap_or_default())
}

fn naive_media_type(text: &[u8], cut: bool, nonce: Option<&str>) -> Result<String, MarkerWarning> {
    let line: Vec<u8> = text.iter().copied().take_while(|byte| *byte != b'\r').collect();
    if cut && line.len() == text.len() {
        return Err(MarkerWarning::LineTooLong);
    }
    let line = String::from_utf8_lossy(&line).into_owned();
    let Some(line) = line.trim_start_matches(|c: char| c.is_ascii_whitespace()).strip_prefix(':') else {
        return Err(MarkerWarning::NoColon);
    };
    let readings = match nonce {
        None => vec![line],
        Some(nonce) => vec![line.split(nonce).next().unwrap(), line.split_ascii_whitespace().next().unwrap_or("")],
    };
    let good = readings
        .into_iter()
        .map(|text| text.trim_matches(|c: char| c.is_ascii_whitespace()))
        .find(|text| is_media_type(text));
    good.map(str::to_owned).ok_or(MarkerWarning::NotAMediaType)
}

fn token() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::sample::select(vec![M, S, E]).prop_map(|marker| marker.as_bytes().to_vec()),
        2 => Just(format!("{M}: text/plain").into_bytes()),
        2 => (prop::sample::select(vec![M, S, E]), any::<prop::sample::Index>())
            .prop_map(|(marker, end)| marker.as_bytes()[..end.index(marker.len())].to_vec()),
        2 => Just(b": application/json".to_vec()),
        2 => Just(b"n0nce".to_vec()),
        6 => Just(b"\n".to_vec()),
        1 => Just(b"\r\n".to_vec()),
        1 => Just(b"\0".to_vec()),
        3 => prop::collection::vec(any::<u8>(), 0..6),
        1 => prop_oneof![(BEFORE - 40)..(BEFORE + 5), (REST - 80)..(REST + 5), KEPT..(KEPT + 3)]
            .prop_map(|count| vec![b'x'; count]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_chunking_gives_what_the_whole_gives(
        tokens in prop::collection::vec(token(), 0..40),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        bytewise in any::<bool>(),
        with_nonce in any::<bool>(),
    ) {
        let log = tokens.concat();
        let nonce = with_nonce.then_some("n0nce");
        let expected = oracle(&log, nonce);
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(log.len() + 1)).collect();
        at.extend([0, log.len()]);
        at.sort_unstable();
        let pieces: Vec<&[u8]> =
            if bytewise { log.chunks(1).collect() } else { at.windows(2).map(|pair| &log[pair[0]..pair[1]]).collect() };
        prop_assert_eq!(&scan(&pieces, nonce), &expected);
        prop_assert_eq!(&scan(&[&log], nonce), &expected);
    }
}
