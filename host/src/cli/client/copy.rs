//! Bytes of an answer on their way to standard output: exactly those that came, and on a terminal a line end after them, so that the
//! prompt does not stand behind the last word.

use std::io::{ErrorKind, IsTerminal as _, Write};

use futures::{Stream, StreamExt as _};

use crate::cli::output::Failure;

/// Writes an answer to standard output, each piece as it comes. A reader that went away (`| head`) is not an error of ours.
pub(crate) async fn to_stdout(answer: reqwest::Response) -> Result<(), Failure> {
    let terminal = std::io::stdout().is_terminal();
    match copy(answer.bytes_stream(), &mut std::io::stdout(), terminal).await {
        Err(CopyError::Write(error)) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

#[derive(Debug, thiserror::Error)]
enum CopyError<E: std::error::Error + 'static> {
    #[error("the server's answer broke off")]
    Read(#[source] E),
    #[error("cannot write the server's answer")]
    Write(#[source] std::io::Error),
}

async fn copy<B: AsRef<[u8]>, E: std::error::Error + 'static>(
    mut body: impl Stream<Item = Result<B, E>> + Unpin,
    out: &mut impl Write,
    terminal: bool,
) -> Result<(), CopyError<E>> {
    let mut last = None;
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(CopyError::Read)?;
        let bytes = piece.as_ref();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(CopyError::Write)?;
        last = bytes.last().copied().or(last);
    }
    if terminal && last.is_some_and(|last| last != b'\n') {
        out.write_all(b"\n").and_then(|()| out.flush()).map_err(CopyError::Write)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn copied(pieces: &[&'static str], terminal: bool) -> String {
        let body = futures::stream::iter(pieces.iter().map(|piece| Ok::<_, std::io::Error>(*piece)));
        let mut out = Vec::new();
        copy(body, &mut out, terminal).await.unwrap();
        String::from_utf8(out).unwrap()
    }

    #[tokio::test]
    async fn a_terminal_gets_a_line_end_where_there_is_none() {
        assert_eq!(copied(&["Hello", " 'Ada'!"], true).await, "Hello 'Ada'!\n");
        assert_eq!(copied(&["Hello", ""], true).await, "Hello\n", "an empty piece ends nothing");
        assert_eq!(copied(&["6\n"], true).await, "6\n");
        assert_eq!(copied(&["6", "\n", ""], true).await, "6\n");
        assert_eq!(copied(&[], true).await, "");
    }

    #[tokio::test]
    async fn a_file_or_pipe_gets_the_bytes_and_nothing_else() {
        assert_eq!(copied(&["Hello"], false).await, "Hello");
        assert_eq!(copied(&[], false).await, "");
    }

    #[tokio::test]
    async fn what_came_before_a_break_is_written() {
        let body = futures::stream::iter([Ok("a"), Err(std::io::Error::other("gone"))]);
        let mut out = Vec::new();
        assert!(matches!(copy(body, &mut out, true).await, Err(CopyError::Read(_))));
        assert_eq!(out, b"a");
    }
}
