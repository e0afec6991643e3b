//! As much of a client of NATS as the arena needs: publish and be acknowledged, ask and be answered.
//!
//! Source: the [protocol](https://docs.nats.io/reference/reference-protocols/nats-protocol), whose lines are text.

use std::{
    io::{BufRead as _, BufReader, BufWriter, Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
};

use counterfoil_benches::{Body, Outcome};
use serde_json::Value;

/// What a publisher has under way without an ack, as `nats bench` and the clients have it by default, or more.
const UNACKED_MAX: usize = 8192;
/// The longest line of the server's that is read.
const LINE_BYTES_MAX: u64 = 64 << 10;

pub(super) struct Client {
    reader: BufReader<TcpStream>,
    writer: BufWriter<TcpStream>,
    /// Where answers come; its own, since a leaf node passes on what a subject of the hub is for.
    inbox: String,
    unacked: usize,
}

impl Client {
    pub(super) fn connect(port: u16) -> Outcome<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        let (reader, writer) = (BufReader::new(stream.try_clone()?), BufWriter::with_capacity(64 << 10, stream));
        let mut client = Self { reader, writer, inbox: format!("_INBOX.arena-{port}"), unacked: 0 };
        client.line()?;
        let options = r#"{"verbose":false,"pedantic":false,"headers":false,"lang":"rust","version":"0"}"#;
        write!(client.writer, "CONNECT {options}\r\nSUB {} 1\r\n", client.inbox)?;
        client.writer.flush()?;
        Ok(client)
    }

    /// Asks a subject and returns the answer.
    pub(super) fn ask(&mut self, subject: &str, question: &Value) -> Outcome<Value> {
        self.settle(0)?;
        // Where nothing is asked, the server wants no bytes.
        let question = if question.is_null() { String::new() } else { question.to_string() };
        write!(self.writer, "PUB {subject} {} {}\r\n{question}\r\n", self.inbox, question.len())?;
        self.writer.flush()?;
        self.answer()
    }

    /// Publishes to a stream's subject. Most acks are awaited by a later call.
    pub(super) fn publish(&mut self, subject: &str, bodies: &[Body]) -> Outcome<()> {
        for body in bodies {
            if self.unacked == UNACKED_MAX {
                self.settle(UNACKED_MAX / 2)?;
            }
            write!(self.writer, "PUB {subject} {} {}\r\n", self.inbox, body.len())?;
            self.writer.write_all(body)?;
            self.writer.write_all(b"\r\n")?;
            self.unacked += 1;
        }
        Ok(())
    }

    /// Returns once at most so many acks are missing.
    pub(super) fn settle(&mut self, unacked_max: usize) -> Outcome<()> {
        self.writer.flush()?;
        while self.unacked > unacked_max {
            self.answer()?;
            self.unacked -= 1;
        }
        Ok(())
    }

    /// The next message; an error if it tells of one.
    fn answer(&mut self) -> Outcome<Value> {
        loop {
            let line = self.line()?;
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("PING") => {
                    self.writer.write_all(b"PONG\r\n")?;
                    self.writer.flush()?;
                }
                Some("MSG") => {
                    let len: u64 = words.next_back().ok_or("a message without length")?.parse()?;
                    let mut body = Vec::new();
                    (&mut self.reader).take(len + 2).read_to_end(&mut body)?;
                    let answer: Value = serde_json::from_slice(&body)?;
                    return match answer.get("error") {
                        Some(error) => Err(error.to_string().into()),
                        None => Ok(answer),
                    };
                }
                Some("-ERR") => return Err(line.into()),
                _ => {}
            }
        }
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        (&mut self.reader).take(LINE_BYTES_MAX).read_line(&mut line)?;
        if line.is_empty() { Err("the server hung up".into()) } else { Ok(line) }
    }
}
