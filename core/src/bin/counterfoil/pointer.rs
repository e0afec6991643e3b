//! The key of a line of JSON: the texts at some JSON pointers.

use serde_json::Value;

use crate::failure::Failure;

/// Where in a line its key is.
#[derive(Debug, Clone)]
pub(crate) struct Pointers(Vec<String>);

impl Pointers {
    /// Pointers as of RFC 6901: empty, or beginning with `/`.
    pub(crate) fn new(pointers: &[String]) -> Result<Self, Failure> {
        match pointers.iter().find(|pointer| !pointer.is_empty() && !pointer.starts_with('/')) {
            Some(pointer) => Err(Failure::Usage(format!("{pointer} is no JSON pointer: it begins with /, as in /id"))),
            None => Ok(Self(pointers.to_vec())),
        }
    }

    /// The key of a line, whose number is told if it has none: the texts, joined with `/`. A whole number, `true` and `false` count as the
    /// text that they are written as, so that `5` and `"5"` are one key: what differs in that way is most often one thing that two
    /// programs wrote down. Only the last text may hold
    /// one: else `A/1` and `2` would make the key that `A` and `1/2` do.
    pub(crate) fn key_of(&self, line: &[u8], number: u64) -> Result<Vec<u8>, Failure> {
        let refuse = |why: String| Failure::Usage(format!("line {number} {why}"));
        let value: Value = serde_json::from_slice(line).map_err(|error| refuse(format!("is not JSON: {error}")))?;
        let text = |pointer: &String| match value.pointer(pointer) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(Value::Bool(truth)) => Ok(truth.to_string()),
            Some(Value::Number(number)) if number.is_u64() || number.is_i64() => Ok(number.to_string()),
            // Two that differ may be read as one.
            Some(Value::Number(_)) => {
                Err(refuse(format!("has a number that is not exact at {pointer:?}: make it a text")))
            }
            Some(_) => Err(refuse(format!("has no text at {pointer:?}"))),
            None => Err(refuse(format!("has nothing at {pointer:?}"))),
        };
        let texts: Vec<_> = self.0.iter().map(text).collect::<Result<_, _>>()?;
        let before_last = self.0.iter().zip(&texts).take(texts.len().saturating_sub(1));
        if let Some((pointer, text)) = before_last.into_iter().find(|(_, text)| text.contains('/')) {
            let what = format!(
                "has a / in {text:?} at {pointer:?}, so that other texts could make the same key: give this pointer last"
            );
            return Err(refuse(what));
        }
        Ok(texts.join("/").into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_texts_at_the_pointers() {
        let pointers = |pointers: &[&str]| Pointers::new(&pointers.iter().map(ToString::to_string).collect::<Vec<_>>());
        let line =
            br#"{"resourceType":"Patient","id":"7","n":5,"same":"5","yes":true,"half":0.5,"a":{"b":["x"]},"slash":"a/b","none":null,"large":12345678901234567890123}"#;
        for (given, expected) in [
            (&["/id"][..], Ok("7")),
            (&["/resourceType", "/id"], Ok("Patient/7")),
            (&["/a/b/0", "/n"], Ok("x/5")),
            (&["/n"], Ok("5")),
            (&["/same"], Ok("5")),
            (&["/yes"], Ok("true")),
            (&["/half"], Err("line 3 has a number that is not exact at \"/half\": make it a text")),
            (&["/slash"], Ok("a/b")),
            (&["/id", "/slash"], Ok("7/a/b")),
            (
                &["/slash", "/id"],
                Err("line 3 has a / in \"a/b\" at \"/slash\", so that other texts could make the same key: give this \
                     pointer last"),
            ),
            (&["/large"], Err("line 3 has a number that is not exact at \"/large\": make it a text")),
            (&["/nil"], Err("line 3 has nothing at \"/nil\"")),
            (&["/none"], Err("line 3 has no text at \"/none\"")),
        ] {
            let key = pointers(given).unwrap().key_of(line, 3).map_err(|failure| failure.to_string());
            assert_eq!(key, expected.map(|key| key.as_bytes().to_vec()).map_err(ToOwned::to_owned), "{given:?}");
        }
        assert!(pointers(&["id"]).is_err());
        let error = pointers(&["/id"]).unwrap().key_of(b"{", 1).unwrap_err().to_string();
        assert!(error.starts_with("line 1 is not JSON"), "{error}");
    }
}
