//! Whether a text is one statement that reads. It looks at quotes and comments alone; the database judges the rest.

use super::SqlError;

/// Words that a reading statement begins with.
const READING: [&str; 4] = ["select", "with", "values", "explain"];

/// The one statement in the text, without the `;` behind it.
pub(super) fn reading(text: &str) -> Result<&str, SqlError> {
    let (first, begin) = beginning(text)?;
    let end = first + end_of_statement(begin);
    let mut rest = end;
    while text.get(rest..).is_some_and(|rest| rest.starts_with(';')) {
        rest = blank(text, rest + 1);
    }
    if rest < text.len() {
        let line = text.get(..end).unwrap_or_default().matches('\n').count() + 1;
        return Err(SqlError::Several { line });
    }
    Ok(text.get(first..end).unwrap_or_default())
}

/// Where the first statement begins, and the text from there. It begins with a reading word.
pub(super) fn beginning(text: &str) -> Result<(usize, &str), SqlError> {
    let first = blank(text, 0);
    let Some(begin) = text.get(first..).filter(|rest| !rest.is_empty() && !rest.starts_with(';')) else {
        return Err(SqlError::Empty);
    };
    let word: String = begin.chars().take_while(|c| c.is_alphanumeric() || *c == '_').take(40).collect();
    if !READING.iter().any(|known| word.eq_ignore_ascii_case(known)) {
        let shown = if word.is_empty() { begin.chars().take(1).collect() } else { word };
        return Err(SqlError::NotReading(shown));
    }
    Ok((first, begin))
}

/// The position behind blanks and comments that begin at `from`.
fn blank(text: &str, from: usize) -> usize {
    let mut at = from;
    loop {
        let rest = text.get(at..).unwrap_or_default();
        let trimmed = rest.trim_start();
        at += rest.len() - trimmed.len();
        match comment(trimmed) {
            0 => return at,
            length => at += length,
        }
    }
}

/// Length of the comment that this text begins with; 0 if with none.
fn comment(text: &str) -> usize {
    if text.starts_with("--") {
        text.find('\n').map_or(text.len(), |at| at + 1)
    } else if text.starts_with("/*") {
        // An open comment reaches to the end.
        text.get(2..).and_then(|rest| rest.find("*/")).map_or(text.len(), |at| at + 4)
    } else {
        0
    }
}

/// The position of the first `;` outside of quotes and comments, or the end.
fn end_of_statement(text: &str) -> usize {
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let step = comment(rest);
        if step > 0 {
            at += step;
            continue;
        }
        let Some(c) = rest.chars().next() else { break };
        let close = match c {
            ';' => return at,
            // A doubled quote inside is two texts in a row: no difference here.
            '\'' | '"' | '`' => Some(c),
            '[' => Some(']'),
            _ => None,
        };
        at += c.len_utf8();
        if let Some(close) = close {
            let inner = text.get(at..).unwrap_or_default();
            at += inner.find(close).map_or(inner.len(), |end| end + close.len_utf8());
        }
    }
    text.len().min(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn takes_one_reading_statement() {
        for (text, want) in [
            ("select 1", "select 1"),
            ("  SELECT 1 ;; -- done\n /* ; */ ; ", "SELECT 1 "),
            ("-- c;\n/* ; */ with x as (values(';')) select \";\", [;], `;`, 'it''s;' from x", ""),
            ("explain query plan select 1;", "explain query plan select 1"),
            ("select 1 -- ; open", "select 1 -- ; open"),
        ] {
            let got = reading(text).unwrap();
            assert!(want.is_empty() || got == want, "{text:?} -> {got:?}");
        }
    }

    #[test]
    fn refuses_the_rest_and_says_why() {
        for text in ["", " ;", "-- only a comment", "/* open"] {
            assert!(matches!(reading(text), Err(SqlError::Empty)), "{text:?}");
        }
        for text in
            ["delete from jobs", "Attach 'x' as y", "pragma journal_mode = delete", "(select 1)", "selected", "begin"]
        {
            assert!(matches!(reading(text), Err(SqlError::NotReading(_))), "{text:?}");
        }
        assert!(matches!(reading("select 1\n;\ndelete from jobs"), Err(SqlError::Several { line: 2 })));
        assert!(matches!(reading("select ';'; select 2"), Err(SqlError::Several { line: 1 })));
    }

    proptest! {
        #[test]
        fn any_text_is_judged(text in "(select|with|;|'|\"|--|/\\*|\\*/|\\[|\\]|`|\n|ä| |.){0,30}") {
            if let Ok(statement) = reading(&text) {
                prop_assert!(text.contains(statement));
                prop_assert!(READING.iter().any(|word| statement.to_lowercase().starts_with(word)));
            }
        }
    }
}
