//! Text of any known encoding as UTF-8 with `\n` line ends, as a stream that knows where its lines begin.

use std::collections::VecDeque;
use std::io::{self, Read};

use encoding_rs::{Decoder, Encoding};

const CHUNK: usize = 8 * 1024;

/// A reader of UTF-8 over a reader of another encoding. Holds two small buffers.
pub(crate) struct Utf8Lines<R> {
    input: R,
    decoder: Decoder,
    raw: Box<[u8]>,
    text: Vec<u8>,
    /// How much of `text` was handed out.
    given: usize,
    at_end: bool,
    last_was_return: bool,
    /// Bytes put into `text` so far, over the whole stream.
    produced: u64,
    line: u64,
    line_is_blank: bool,
    /// Lines that are not blank and were not forgotten: where they begin, and their number.
    lines: VecDeque<(u64, u64)>,
    line_start: u64,
    /// No byte from here on is handed out.
    allowed_until: u64,
}

impl<R: Read> Utf8Lines<R> {
    pub(crate) fn new(input: R, encoding: &'static Encoding, first_line: u64) -> Self {
        Self {
            input,
            decoder: encoding.new_decoder_without_bom_handling(),
            raw: vec![0; CHUNK].into_boxed_slice(),
            text: Vec::new(),
            given: 0,
            at_end: false,
            last_was_return: false,
            produced: 0,
            line: first_line,
            line_is_blank: true,
            lines: VecDeque::new(),
            line_start: 0,
            allowed_until: u64::MAX,
        }
    }

    /// The number of the first line that begins at or after `offset` and is not blank. Forgets earlier ones.
    pub(crate) fn line_at(&mut self, offset: u64) -> Option<u64> {
        while self.lines.front().is_some_and(|(start, _)| *start < offset) {
            self.lines.pop_front();
        }
        self.lines.front().map(|(_, line)| *line)
    }

    /// Fails reads past `offset` with [`TooLong`].
    pub(crate) fn allow_until(&mut self, offset: u64) {
        self.allowed_until = offset;
    }

    fn refill(&mut self) -> io::Result<()> {
        let read = loop {
            match self.input.read(&mut self.raw) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.at_end = read == 0;
        let raw = &self.raw[..read];
        let wanted = self.decoder.max_utf8_buffer_length(read).unwrap_or(CHUNK * 4);
        let mut decoded = vec![0; wanted];
        let (_, _, written, _) = self.decoder.decode_to_utf8(raw, &mut decoded, self.at_end);
        self.text.clear();
        self.given = 0;
        for &byte in &decoded[..written] {
            self.push(byte);
        }
        Ok(())
    }

    /// Every line end becomes one `\n`.
    fn push(&mut self, byte: u8) {
        let ends_return = self.last_was_return && byte == b'\n';
        self.last_was_return = byte == b'\r';
        if ends_return {
            return;
        }
        self.text.push(if byte == b'\r' { b'\n' } else { byte });
        self.produced += 1;
        if matches!(byte, b'\r' | b'\n') {
            self.line += 1;
            self.line_is_blank = true;
            self.line_start = self.produced;
        } else if self.line_is_blank {
            self.line_is_blank = false;
            self.lines.push_back((self.line_start, self.line));
        }
    }
}

impl<R: Read> Read for Utf8Lines<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.given == self.text.len() {
            if self.at_end {
                return Ok(0);
            }
            if self.produced >= self.allowed_until {
                return Err(io::Error::other(TooLong));
            }
            self.refill()?;
        }
        let count = out.len().min(self.text.len() - self.given);
        out[..count].copy_from_slice(&self.text[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

/// One row is longer than any row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the row is too long")]
pub(crate) struct TooLong;

#[cfg(test)]
mod tests {
    use encoding_rs::{UTF_8, WINDOWS_1252};

    use super::*;

    fn decoded(bytes: &[u8], encoding: &'static Encoding) -> String {
        let mut text = String::new();
        Utf8Lines::new(bytes, encoding, 1).read_to_string(&mut text).expect("UTF-8");
        text
    }

    #[test]
    fn windows_1252_becomes_utf8() {
        assert_eq!(decoded(b"\xC5sa \xC4ngstr\xF6m \x80", WINDOWS_1252), "Åsa Ängström €");
    }

    #[test]
    fn every_line_end_becomes_one() {
        assert_eq!(decoded(b"a\r\nb\rc\nd\r\n\r\ne", UTF_8), "a\nb\nc\nd\n\ne");
    }

    #[test]
    fn lines_keep_their_numbers_over_blank_ones() {
        let mut lines = Utf8Lines::new(&b"\r\na\r\n\r\n\r\nb\r\nc"[..], UTF_8, 1);
        io::copy(&mut lines, &mut io::sink()).expect("readable");
        assert_eq!(lines.line_at(0), Some(2));
        assert_eq!(lines.line_at(3), Some(5));
        assert_eq!(lines.line_at(7), Some(6));
        assert_eq!(lines.line_at(9), None);
    }

    #[test]
    fn memory_is_bounded_by_the_chunk_and_not_by_the_input() {
        let input = io::Read::take(io::repeat(b'x'), 5_000_000);
        let mut lines = Utf8Lines::new(input, UTF_8, 1);
        let copied = io::copy(&mut lines, &mut io::sink()).expect("readable");
        assert_eq!(copied, 5_000_000);
        assert!(lines.text.capacity() <= CHUNK * 8, "{}", lines.text.capacity());
    }

    #[test]
    fn reading_past_the_bound_fails() {
        let mut lines = Utf8Lines::new(io::repeat(b'x'), UTF_8, 1);
        lines.allow_until(100_000);
        let error = io::copy(&mut lines, &mut io::sink()).expect_err("the bound");
        assert!(error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<TooLong>));
    }
}
