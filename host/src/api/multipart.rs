//! `multipart/related` (RFC 2387): the frame around parts whose bytes are streamed.

use std::fmt::Write as _;

use bytes::Bytes;

/// The head of one part.
#[derive(Debug, Clone)]
pub(super) struct PartHead {
    /// The output's id.
    pub(super) content_id: String,
    pub(super) media_type: String,
    /// Where the value is, for one by reference: its part has no body.
    pub(super) location: Option<String>,
    /// Bytes of the body.
    pub(super) size: u64,
}

/// The frame of one answer: everything but the parts' bytes.
#[derive(Debug)]
pub(super) struct Frame {
    boundary: String,
    /// What stands before each body, with the delimiter.
    pub(super) heads: Vec<Bytes>,
    /// What stands behind the last body.
    pub(super) end: Bytes,
    root_type: String,
    sizes: u64,
}

impl Frame {
    /// `boundary` must occur in no part: a random one does not.
    pub(super) fn new(boundary: String, parts: &[PartHead]) -> Self {
        let mut heads = Vec::with_capacity(parts.len());
        for (index, part) in parts.iter().enumerate() {
            // The line end before a delimiter belongs to the delimiter, so that bodies stay byte for byte.
            let mut head = if index == 0 { String::new() } else { "\r\n".to_owned() };
            // Writing into a string does not fail.
            let _ = write!(head, "--{boundary}\r\nContent-Type: {}\r\n", line(&part.media_type));
            let _ = write!(head, "Content-ID: {}\r\n", line(&part.content_id));
            if let Some(location) = &part.location {
                let _ = write!(head, "Content-Location: {}\r\n", line(location));
            }
            let _ = write!(head, "Content-Length: {}\r\n\r\n", part.size);
            heads.push(Bytes::from(head));
        }
        let end = if parts.is_empty() { format!("--{boundary}--\r\n") } else { format!("\r\n--{boundary}--\r\n") };
        let root_type = parts.first().map_or("text/plain", |part| part.media_type.as_str());
        // Anything else would cost the answer its own media type.
        let harmless = |c: &char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\');
        let root_type = root_type.chars().filter(harmless).collect();
        let sizes = parts.iter().map(|part| part.size).sum();
        Self { boundary, heads, end: Bytes::from(end), root_type, sizes }
    }

    /// The answer's `Content-Type`.
    pub(super) fn content_type(&self) -> String {
        format!("multipart/related; boundary=\"{}\"; type=\"{}\"", self.boundary, self.root_type)
    }

    /// Bytes of the whole answer.
    pub(super) fn length(&self) -> u64 {
        let frame = self.heads.iter().map(Bytes::len).sum::<usize>() + self.end.len();
        self.sizes.saturating_add(frame as u64)
    }
}

/// A text as a header's value: what would end the line is left out.
fn line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(id: &str, media_type: &str, size: u64) -> PartHead {
        PartHead { content_id: id.into(), media_type: media_type.into(), location: None, size }
    }

    #[test]
    fn the_frame_is_that_of_the_rfc() {
        let reference = PartHead { location: Some("http://h/b".into()), ..part("b", "image/png", 0) };
        let frame = Frame::new("X".into(), &[part("a", "text/plain", 3), reference]);
        let mut whole = Vec::new();
        for (head, body) in frame.heads.iter().zip(["abc", ""]) {
            whole.extend_from_slice(head);
            whole.extend_from_slice(body.as_bytes());
        }
        whole.extend_from_slice(&frame.end);
        let expected = "--X\r\nContent-Type: text/plain\r\nContent-ID: a\r\nContent-Length: 3\r\n\r\nabc\r\n\
                        --X\r\nContent-Type: image/png\r\nContent-ID: b\r\nContent-Location: http://h/b\r\nContent-Length: 0\r\n\r\n\r\n--X--\r\n";
        assert_eq!(String::from_utf8(whole).unwrap(), expected);
        assert_eq!(frame.length(), expected.len() as u64);
        assert_eq!(frame.content_type(), "multipart/related; boundary=\"X\"; type=\"text/plain\"");
    }

    #[test]
    fn no_header_can_be_smuggled_in() {
        let frame = Frame::new("X".into(), &[part("a\r\nSet-Cookie: x", "text/\"html\r\n\r\n", 0)]);
        assert_eq!(frame.heads[0].iter().filter(|byte| **byte == b'\n').count(), 5, "{:?}", frame.heads[0]);
        assert!(!frame.content_type().contains("\"html"));
        let frame = Frame::new("X".into(), &[part("a", "t\u{e9}xt/plain", 0)]);
        assert!(http::HeaderValue::from_str(&frame.content_type()).unwrap().to_str().is_ok());
    }
}
