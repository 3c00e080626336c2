use std::io::{self, BufRead, Cursor, Read};

/// As much of a line as tells what a file is.
const MOST: u64 = 64 * 1024;

/// The first line that isn't blank, or its beginning if it is long, and the input with it back in place.
pub(crate) fn first_line(mut input: impl BufRead) -> io::Result<(String, impl BufRead)> {
    let mut read = Vec::new();
    loop {
        let begin = read.len();
        let more = (&mut input).take(MOST).read_until(b'\n', &mut read)?;
        let line = String::from_utf8_lossy(&read[begin..]);
        let line = line.trim_start_matches('\u{feff}').trim();
        if more == 0 || !line.is_empty() {
            return Ok((line.to_owned(), Cursor::new(read).chain(input)));
        }
    }
}
