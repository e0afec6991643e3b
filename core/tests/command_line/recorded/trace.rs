//! What `strace -f -y -xx` wrote, as calls in their order.

use std::collections::HashMap;

/// One call of one thread that succeeded, or was cut off by the end of its process.
#[derive(Debug, Clone)]
pub(super) struct Call {
    /// When it began and when it had returned, in events of all threads; `None`: it never returned.
    pub(super) began: usize,
    pub(super) ended: Option<usize>,
    pub(super) operation: Operation,
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation {
    Create {
        path: String,
    },
    Write {
        path: String,
        offset: u64,
        bytes: Vec<u8>,
    },
    /// Of a file's data or of a folder.
    Sync {
        path: String,
    },
    SetLen {
        path: String,
        len: u64,
    },
    Reserve {
        path: String,
        len: u64,
    },
    Rename {
        from: String,
        to: String,
    },
    Remove {
        path: String,
    },
    CreateDir {
        path: String,
    },
    /// Text on standard output.
    Print {
        text: String,
    },
}

/// A line of a trace without the thread's id.
enum Line<'a> {
    Whole(&'a str),
    Began(&'a str),
    Resumed(&'a str),
    Other,
}

fn line_of(rest: &str) -> Line<'_> {
    if let Some(began) = rest.strip_suffix(" <unfinished ...>") {
        Line::Began(began)
    } else if rest.starts_with("<... ") {
        Line::Resumed(rest.split_once(" resumed>").expect("a call resumed").1)
    } else if rest.starts_with("+++") || rest.starts_with("---") {
        Line::Other
    } else {
        Line::Whole(rest)
    }
}

/// All calls of a trace that changed something, by when they began.
pub(super) fn parse(trace: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut open: HashMap<&str, (usize, &str)> = HashMap::new();
    for (event, line) in trace.lines().enumerate() {
        let (thread, rest) = line.split_once(' ').expect("a thread and what it did");
        match line_of(rest.trim_start()) {
            Line::Whole(text) => calls.extend(call_of(event, Some(event), text)),
            Line::Began(text) => drop(open.insert(thread, (event, text))),
            Line::Resumed(text) => {
                let (began, front) = open.remove(thread).expect("it had begun");
                calls.extend(call_of(began, Some(event), &format!("{front}{text}")));
            }
            Line::Other => {}
        }
    }
    // Those that the end of the process cut off may have been done.
    let cut_off = open.into_values().filter_map(|(began, text)| call_of(began, None, &format!("{text}) = ?")));
    calls.extend(cut_off.collect::<Vec<_>>());
    calls.sort_by_key(|call| call.began);
    calls
}

fn call_of(began: usize, ended: Option<usize>, text: &str) -> Option<Call> {
    let (name, rest) = text.split_once('(').expect("a call");
    let (arguments, result) = rest.rsplit_once(") ").or(rest.rsplit_once(')')).expect("its end");
    let result = result.trim_start().trim_start_matches("= ");
    if result.starts_with('-') {
        return None;
    }
    // Killed within a call: strace may say so by a question mark.
    let ended = ended.filter(|_| !result.starts_with('?'));
    let operation = operation_of(name, &split(arguments), result)?;
    Some(Call { began, ended, operation })
}

/// Arguments, split at commas outside brackets. All strings are in hexadecimal, so they hold none.
fn split(arguments: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, byte) in arguments.bytes().enumerate() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(arguments[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(arguments[start..].trim());
    parts
}

/// The bytes of all strings in a text, one after the other.
fn bytes_of(text: &str) -> Vec<u8> {
    assert!(!text.contains("\"..."), "the trace was cut short");
    let mut bytes = Vec::with_capacity(text.len() / 4);
    for (number, part) in text.split('"').enumerate() {
        if number % 2 == 1 {
            unescape(part, &mut bytes);
        }
    }
    bytes
}

fn unescape(hex: &str, out: &mut Vec<u8>) {
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("hexadecimal") as u8;
    let mut rest = hex.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if let (b'\\', [b'x', high, low, after @ ..]) = (first, after) {
            out.push(digit(*high) << 4 | digit(*low));
            rest = after;
        } else {
            out.push(first);
            rest = after;
        }
    }
}

fn string(argument: &str) -> String {
    String::from_utf8(bytes_of(argument)).expect("a path")
}

/// What a descriptor stands for: `3</path>`.
fn path(descriptor: &str) -> String {
    let inner = descriptor.split_once('<').and_then(|(_, rest)| rest.rsplit_once('>')).map_or("", |(path, _)| path);
    let mut bytes = Vec::new();
    unescape(inner, &mut bytes);
    String::from_utf8(bytes).expect("a path")
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is not a number"))
}

fn operation_of(name: &str, arguments: &[&str], result: &str) -> Option<Operation> {
    Some(match (name, arguments) {
        ("openat", [_, _, flags, ..]) if flags.contains("O_CREAT") => Operation::Create { path: path(result) },
        ("openat" | "open", _) => return None,
        ("pwrite64" | "pwritev", [file, data, _, offset]) => {
            let mut bytes = bytes_of(data);
            truncate(&mut bytes, result);
            Operation::Write { path: path(file), offset: number(offset), bytes }
        }
        ("fdatasync" | "fsync", [file]) => Operation::Sync { path: path(file) },
        ("ftruncate", [file, len]) => Operation::SetLen { path: path(file), len: number(len) },
        ("fallocate", [file, "0", "0", len]) => Operation::Reserve { path: path(file), len: number(len) },
        ("rename", [from, to]) => Operation::Rename { from: string(from), to: string(to) },
        ("unlink", [file]) => Operation::Remove { path: string(file) },
        ("mkdir", [folder, _]) => Operation::CreateDir { path: string(folder) },
        ("write", [file, text, _]) if file.starts_with("1<") => {
            Operation::Print { text: String::from_utf8(bytes_of(text)).expect("acks") }
        }
        ("write", [file, ..]) if file.starts_with("2<") || !path(file).starts_with('/') => return None,
        _ => panic!("a call that this does not know: {name} of {:?}", arguments.first()),
    })
}

/// Of a short write only the front was written. One that was cut off may have been whole.
fn truncate(bytes: &mut Vec<u8>, result: &str) {
    if let Ok(written) = result.parse() {
        bytes.truncate(written);
    }
}
