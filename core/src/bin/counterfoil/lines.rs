//! Lines of bytes from a reader, as many at a time as are waiting.

use std::io::{self, Read};

use crate::failure::Failure;

/// How much is asked for at a time. What comes is committed together, so it is also the most that
/// lines of ordinary length make up in one group.
const READ_BYTES: usize = 256 << 10;

/// Splits what a reader gives into groups of lines.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    reader: R,
    /// Bytes read; those before `start` have been given out.
    buffer: Vec<u8>,
    start: usize,
    /// Lines given out before `start`.
    given: u64,
    is_at_end: bool,
    /// The longest line, in bytes; bounds the buffer.
    line_bytes_max: usize,
}

/// When a group is complete.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Group {
    /// Whatever is waiting.
    Waiting,
    /// So many lines, or fewer once there are 8 MiB of them or no more come.
    Lines(usize),
}

/// A group of this many bytes is complete, whatever was asked for.
const GROUP_BYTES_MAX: usize = 8 << 20;

impl<R: Read> Lines<R> {
    pub(crate) fn new(reader: R, line_bytes_max: usize) -> Self {
        Self { reader, buffer: Vec::new(), start: 0, given: 0, is_at_end: false, line_bytes_max }
    }

    /// The next lines without their LF; empty at the end. A last line without LF counts.
    pub(crate) fn next_group(&mut self, group: Group) -> Result<Vec<&[u8]>, Failure> {
        self.buffer.drain(..self.start);
        self.start = 0;
        // Ends of the lines found so far, each without its LF.
        let mut ends: Vec<usize> = Vec::new();
        while !self.find_ends(&mut ends, group)? && !self.is_at_end {
            self.read_more()?;
        }
        let mut lines = Vec::with_capacity(ends.len());
        for end in ends {
            lines.push(self.start..end);
            self.start = (end + 1).min(self.buffer.len());
        }
        self.given += lines.len() as u64;
        Ok(lines.into_iter().map(|line| &self.buffer[line]).collect())
    }

    /// Looks for further line ends in the buffer; whether the group is complete.
    fn find_ends(&self, ends: &mut Vec<usize>, group: Group) -> Result<bool, Failure> {
        let lines_max = match group {
            Group::Waiting => usize::MAX,
            Group::Lines(count) => count,
        };
        let mut start = ends.last().map_or(0, |end| end + 1);
        while ends.len() < lines_max && start < self.buffer.len() {
            let line_end = self.buffer[start..].iter().position(|byte| *byte == b'\n').map(|len| start + len);
            let end = line_end.unwrap_or(self.buffer.len());
            if end - start > self.line_bytes_max {
                // The lines before it are given out first.
                return if ends.is_empty() { Err(self.too_long()) } else { Ok(true) };
            }
            if line_end.is_none() && !self.is_at_end {
                break;
            }
            ends.push(end);
            start = end + 1;
        }
        Ok(match group {
            Group::Waiting => !ends.is_empty(),
            Group::Lines(count) => ends.len() >= count || ends.last().is_some_and(|end| *end >= GROUP_BYTES_MAX),
        })
    }

    fn too_long(&self) -> Failure {
        Failure::LineTooLong { line: self.given + 1, limit: self.line_bytes_max }
    }

    fn read_more(&mut self) -> Result<(), Failure> {
        let len = self.buffer.len();
        self.buffer.resize(len + READ_BYTES, 0);
        let read = loop {
            match self.reader.read(&mut self.buffer[len..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.buffer.truncate(len + *read.as_ref().unwrap_or(&0));
        self.is_at_end = read.map_err(Failure::Input)? == 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its pieces one by one, as a pipe does.
    struct Pieces(Vec<&'static [u8]>);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let piece = self.0.remove(0);
            buffer[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        }
    }

    fn groups(pieces: &[&'static [u8]], group: Group) -> Vec<Vec<Vec<u8>>> {
        let mut lines = Lines::new(Pieces(pieces.to_vec()), 10);
        let mut groups = Vec::new();
        loop {
            let next: Vec<_> = lines.next_group(group).unwrap().into_iter().map(<[u8]>::to_vec).collect();
            if next.is_empty() {
                return groups;
            }
            groups.push(next);
        }
    }

    #[test]
    fn what_is_waiting_is_one_group() {
        assert_eq!(
            groups(&[b"a\nb\nc", b"c\n", b"d\n"], Group::Waiting),
            [vec![b"a".to_vec(), b"b".to_vec()], vec![b"cc".to_vec()], vec![b"d".to_vec()]]
        );
    }

    #[test]
    fn empty_lines_and_an_unterminated_last_line_count_and_bytes_need_not_be_text() {
        assert_eq!(groups(&[b"\n\n\xff\r\nx"], Group::Waiting)[0][..], [&b""[..], b"", b"\xff\r"]);
        assert_eq!(groups(&[b"\n\n\xff\r\nx"], Group::Waiting)[1][..], [b"x"]);
        assert!(groups(&[], Group::Waiting).is_empty());
        assert_eq!(groups(&[b"\n"], Group::Waiting), [vec![b"".to_vec()]]);
    }

    #[test]
    fn groups_of_a_number_of_lines_end_with_what_is_left() {
        let groups = groups(&[b"1\n2\n3\n4", b"4\n5"], Group::Lines(2));
        assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
        assert_eq!(groups[1][1], b"44");
    }

    #[test]
    fn a_line_over_the_limit_is_refused_by_number_whether_or_not_its_end_has_come() {
        for pieces in [&[&b"1\n0123456789\n0123456789a"[..]][..], &[b"1\n", b"2\n01234567890\n"]] {
            let mut lines = Lines::new(Pieces(pieces.to_vec()), 10);
            let error = loop {
                match lines.next_group(Group::Waiting) {
                    Err(error) => break error.to_string(),
                    Ok(lines) => assert!(!lines.is_empty()),
                }
            };
            assert!(error.starts_with("line 3 is longer than 10 bytes"), "{error}");
        }
    }
}
