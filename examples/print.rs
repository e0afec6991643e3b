//! Printing for whoever still reads.

use std::io::{self, ErrorKind, Write};

/// Prints text. That nobody reads it to its end (`practice | head -3`) is no error.
pub fn print(to: &mut impl Write, text: &str) -> io::Result<()> {
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe from which one byte is read.
    struct Pipe(Vec<u8>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !self.0.is_empty() {
                return Err(ErrorKind::BrokenPipe.into());
            }
            self.0.extend(bytes.first());
            Ok(1)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_seen_enough_is_no_error() {
        let mut pipe = Pipe(Vec::new());
        print(&mut pipe, "three\nlines\nhere\n").unwrap();
        assert_eq!(pipe.0, b"t");
    }
}
