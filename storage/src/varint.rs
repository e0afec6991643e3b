//! Unsigned integers in 1 to 10 bytes, seven bits a byte, least significant first (LEB128).

/// Appends `value` as an integer in 1 to 10 bytes, seven bits a byte, least significant first (LEB128).
pub fn write(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads an integer that [`write_varint`](write()) wrote from the front of `bytes`: the value and how many bytes it took.
///
/// `None` if the bytes end too early, the value exceeds 64 bits, or it is not in its shortest form.
#[inline]
pub fn read(bytes: &[u8]) -> Option<(u64, usize)> {
    match bytes {
        [low @ 0..0x80, ..] => Some((u64::from(*low), 1)),
        [low, high @ 1..0x80, ..] => Some((u64::from(low & 0x7f) | u64::from(*high) << 7, 2)),
        _ => read_long(bytes),
    }
}

fn read_long(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (index, &byte) in bytes.iter().take(10).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if index == 9 && bits > 1 {
            return None;
        }
        value |= bits << (7 * index);
        if byte & 0x80 == 0 {
            let shortest = byte != 0 || index == 0;
            return shortest.then_some((value, index + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_value_reads_back_from_its_bytes(value: u64, shift in 0_u32..64) {
            let mut out = Vec::new();
            write(&mut out, value >> shift);
            prop_assert_eq!(read(&out), Some((value >> shift, out.len())));
            prop_assert_eq!(read(&out[..out.len() - 1]), None);
        }
    }

    #[test]
    fn a_longer_form_than_needed_is_refused() {
        assert_eq!(read(&[0x80, 0x00]), None);
        assert_eq!(read(&[0xff; 10]), None);
        assert_eq!(read(&[]), None);
    }
}
