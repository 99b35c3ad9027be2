//! Telling a file's encoding and delimiter.

use std::io::{Read, Seek, SeekFrom};

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};

use crate::import::{FileError, MAX_ROW_BYTES};

const UTF8_BOM: &[u8] = b"\xEF\xBB\xBF";
const CHUNK: usize = 64 * 1024;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// UTF-8, or Windows-1252 when it is not valid UTF-8 from end to end.
    pub encoding: &'static Encoding,
    /// `;`, `,` or tab.
    pub delimiter: u8,
    /// Where the header's line or a blank line before it begins, in bytes of the file.
    pub start: u64,
    /// The number of the line that begins there.
    pub first_line: u64,
}

/// Reads the whole input once and tells how it is written; leaves the position anywhere.
///
/// # Errors
/// [`FileError::Empty`] when there is nothing but blank lines, [`FileError::NotText`] and
/// [`FileError::Utf16`] for what is no CSV text of these encodings.
pub fn sniff<R: Read + Seek>(input: &mut R) -> Result<Format, FileError> {
    input.seek(SeekFrom::Start(0)).map_err(FileError::Io)?;
    let scan = scan(input)?;
    if scan.is_blank {
        return Err(FileError::Empty);
    }
    let encoding = if scan.is_utf8 { UTF_8 } else { WINDOWS_1252 };
    let bom = if scan.has_bom { UTF8_BOM.len() as u64 } else { 0 };

    input.seek(SeekFrom::Start(bom)).map_err(FileError::Io)?;
    let mut head = Vec::new();
    input.take(MAX_ROW_BYTES).read_to_end(&mut head).map_err(FileError::Io)?;
    let mut format = Format { encoding, delimiter: b';', start: bom, first_line: 1 };
    // Excel may write its delimiter into a line of its own before the header.
    if let Some((delimiter, skipped)) = stated_delimiter(&head) {
        format.delimiter = delimiter;
        format.start += skipped as u64;
        format.first_line = 2;
        return Ok(format);
    }
    format.delimiter = delimiter_of(&head);
    Ok(format)
}

struct Scan {
    is_utf8: bool,
    has_bom: bool,
    is_blank: bool,
}

fn scan<R: Read>(input: &mut R) -> Result<Scan, FileError> {
    let mut scan = Scan { is_utf8: true, has_bom: false, is_blank: true };
    let mut buffer = vec![0; CHUNK];
    // Up to three bytes of a character that the last chunk cut in two.
    let mut carried = 0;
    let mut at_start = true;
    loop {
        let read = fill(input, &mut buffer[carried..]).map_err(FileError::Io)?;
        let mut bytes = &buffer[..carried + read];
        if at_start {
            refuse_other_formats(bytes)?;
            scan.has_bom = bytes.starts_with(UTF8_BOM);
            if scan.has_bom {
                bytes = &bytes[UTF8_BOM.len()..];
            }
            at_start = false;
        }
        if bytes.contains(&0) {
            return Err(FileError::NotText);
        }
        scan.is_blank = scan.is_blank && bytes.iter().all(u8::is_ascii_whitespace);
        let rest = if scan.is_utf8 { bytes.len() - Encoding::utf8_valid_up_to(bytes) } else { 0 };
        let at_end = carried + read < buffer.len();
        if rest > 3 || (at_end && rest > 0) {
            scan.is_utf8 = false;
        }
        if at_end {
            return Ok(scan);
        }
        carried = if scan.is_utf8 { rest } else { 0 };
        let length = buffer.len();
        buffer.copy_within(length - carried.., 0);
    }
}

/// Fills the buffer unless the input ends first.
fn fill<R: Read>(input: &mut R, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn refuse_other_formats(bytes: &[u8]) -> Result<(), FileError> {
    if bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF") {
        return Err(FileError::Utf16);
    }
    // A zip (every workbook of today) or an old workbook.
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"\xD0\xCF\x11\xE0") {
        return Err(FileError::NotText);
    }
    Ok(())
}

/// `sep=;` alone on the first line, and how many bytes that line has.
fn stated_delimiter(head: &[u8]) -> Option<(u8, usize)> {
    let delimiter = *head.get(4)?;
    if !head.get(..4)?.eq_ignore_ascii_case(b"sep=") || !DELIMITERS.contains(&delimiter) {
        return None;
    }
    match head.get(5..)? {
        [b'\r', b'\n', ..] => Some((delimiter, 7)),
        [b'\r' | b'\n', ..] => Some((delimiter, 6)),
        _ => None,
    }
}

const DELIMITERS: [u8; 3] = [b';', b',', b'\t'];

/// The delimiter that stands most often outside quotes in the first line that is not blank.
fn delimiter_of(head: &[u8]) -> u8 {
    let mut counts = [0_usize; 3];
    let (mut quoted, mut blank) = (false, true);
    for &byte in head {
        match byte {
            b'"' => quoted = !quoted,
            b'\r' | b'\n' if !quoted && !blank => break,
            _ if quoted => {}
            _ => {
                if let Some(index) = DELIMITERS.iter().position(|delimiter| *delimiter == byte) {
                    counts[index] += 1;
                }
            }
        }
        blank = blank && byte.is_ascii_whitespace();
    }
    let most = counts.into_iter().max().unwrap_or(0);
    counts.iter().position(|count| *count == most).map_or(b';', |index| DELIMITERS[index])
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn format(bytes: &[u8]) -> Result<Format, FileError> {
        sniff(&mut Cursor::new(bytes))
    }

    #[test]
    fn each_delimiter_is_told_from_the_header() {
        for (text, delimiter) in [
            ("a;b;c\n1,2;3;4", b';'),
            ("a,b,c\n1;2", b','),
            ("a\tb\tc\n", b'\t'),
            ("\n\r\n \na,b\n;;;;", b','),
            ("\"a;b;c;d\",b,c\n", b','),
            ("alone\n", b';'),
        ] {
            assert_eq!(format(text.as_bytes()).expect("a file").delimiter, delimiter, "for {text:?}");
        }
    }

    #[test]
    fn a_line_that_states_the_delimiter_is_skipped() {
        let stated = format(b"sep=,\r\na;b,c\n").expect("a file");
        assert_eq!((stated.delimiter, stated.start, stated.first_line), (b',', 7, 2));
        assert_eq!(format(b"sep=x\na,b\n").expect("a file").start, 0);
    }

    #[test]
    fn encodings_are_told_apart() {
        let utf8 = format("förnamn;e-post\nÅsa;a@b.se\n".as_bytes()).expect("a file");
        assert_eq!((utf8.encoding, utf8.start), (UTF_8, 0));
        let bom = format("\u{feff}förnamn;e-post\n".as_bytes()).expect("a file");
        assert_eq!((bom.encoding, bom.start), (UTF_8, 3));
        let latin = format(b"f\xF6rnamn;e-post\n\xC5sa;a@b.se\n").expect("a file");
        assert_eq!(latin.encoding, WINDOWS_1252);
        let late = [b"a;b\n".repeat(50_000), b"\xC5sa;x\n".to_vec()].concat();
        assert_eq!(format(&late).expect("a file").encoding, WINDOWS_1252);
    }

    #[test]
    fn other_formats_are_named() {
        assert!(matches!(format(b""), Err(FileError::Empty)));
        assert!(matches!(format(b"\xEF\xBB\xBF\r\n \n"), Err(FileError::Empty)));
        assert!(matches!(format(b"\xFF\xFEa\0;\0"), Err(FileError::Utf16)));
        assert!(matches!(format(b"PK\x03\x04workbook"), Err(FileError::NotText)));
        assert!(matches!(format(b"a;b\n\0\0"), Err(FileError::NotText)));
    }

    proptest! {
        #[test]
        fn text_in_utf8_is_never_taken_for_another_encoding(shift in 0_usize..4, letter in "[åäöé€😀]") {
            // The letter's bytes meet the border between two chunks in every way.
            let mut text = "x".repeat(CHUNK - shift);
            text.push_str(&letter.repeat(40_000));
            prop_assert_eq!(format(text.as_bytes()).expect("a file").encoding, UTF_8);
        }
    }
}
