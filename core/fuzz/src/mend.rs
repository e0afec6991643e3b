//! Makes the checksums of damaged bytes match again.
//!
//! The layouts are those described in the formats' own docs, written down here a second time on purpose: what is
//! mended wrongly is refused at the door, and the tests of this crate notice.

/// Where the two copies of an identity, and of a segment's header, begin.
const COPIES: [usize; 2] = [0, 4096];
/// Where frames begin.
pub const FRAMES_OFFSET: usize = 8192;
/// Length of a frame's header.
const FRAME_HEADER_LEN: usize = 40;
/// What stands before a rewritten batch in its entry.
const REWRITTEN_HEADER_LEN: usize = 20;
/// Length of a batch's header.
const BATCH_HEADER_LEN: usize = 88;

/// The number in four bytes at `offset`, little-endian.
fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

fn put(bytes: &mut [u8], offset: usize, crc: u32) {
    bytes[offset..offset + 4].copy_from_slice(&crc.to_le_bytes());
}

fn crc_of(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// Makes the checksum of one batch match: all of `bytes`.
pub fn batch(bytes: &mut [u8]) {
    if bytes.len() >= BATCH_HEADER_LEN {
        let crc = crc_of(&[&bytes[..84], &bytes[BATCH_HEADER_LEN..]]);
        put(bytes, 84, crc);
    }
}

/// Makes the checksums in a store's file match, as far as its name and its bytes tell what it holds.
pub fn file(name: &str, bytes: &mut [u8]) {
    match name {
        "identity" => COPIES.iter().for_each(|at| identity(bytes, *at)),
        "extent" => {
            for at in COPIES {
                if bytes.len() >= at + 32 {
                    let crc = crc_of(&[&bytes[at..at + 28]]);
                    put(bytes, at + 28, crc);
                }
            }
        }
        _ => segment(bytes),
    }
}

fn identity(bytes: &mut [u8], at: usize) {
    let Some(node_len) = bytes.get(at + 56) else { return };
    let end = at + 57 + usize::from(*node_len);
    if end + 4 <= bytes.len() {
        let crc = crc_of(&[&bytes[at..end]]);
        put(bytes, end, crc);
    }
}

fn segment(bytes: &mut [u8]) {
    for at in COPIES {
        // A header that was never written stays unwritten.
        if bytes.len() >= at + 80 && bytes[at..at + 4] == *b"CFS1" {
            let crc = crc_of(&[&bytes[at..at + 76]]);
            put(bytes, at + 76, crc);
        }
    }
    let Some(salt) = bytes.get(32..48).map(<[u8]>::to_vec) else { return };
    let mut offset = FRAMES_OFFSET;
    while offset + 8 <= bytes.len() {
        let len = match &bytes[offset..offset + 4] {
            b"CFF1" => frame(&mut bytes[offset..], &salt),
            b"CFI1" => footer(&mut bytes[offset..]),
            _ => None,
        };
        offset += len.unwrap_or(8).next_multiple_of(8).max(8);
    }
}

/// Makes the checksums of the frame at the front of `bytes` match, as far as its entries are where its table says;
/// its length.
pub fn frame(bytes: &mut [u8], salt: &[u8]) -> Option<usize> {
    let len = u32_at(bytes, 8)? as usize;
    let frame = bytes.get_mut(..len).filter(|frame| frame.len() >= FRAME_HEADER_LEN)?;
    put(frame, 32, 0);
    let crc = crc_of(&[salt, &frame[..36]]);
    put(frame, 32, crc);
    let count = u32_at(frame, 12)? as usize;
    let rows_end = FRAME_HEADER_LEN.checked_add(count.checked_mul(4)?)?;
    let table_end = if count == 0 { rows_end } else { rows_end.checked_add(4)? };
    frame.get(..table_end)?;
    if count > 0 {
        let crc = crc_of(&[salt, &frame[FRAME_HEADER_LEN..rows_end]]);
        put(frame, rows_end, crc);
    }
    let mut crcs = Vec::new();
    let mut offset = table_end;
    for row in 0..count {
        let row = u32_at(frame, FRAME_HEADER_LEN + row * 4)?;
        let (kind, len) = (row >> 28, (row & 0xfff_ffff) as usize);
        let end = offset + len;
        let entry = frame.get_mut(offset..end)?;
        let crc_at = match kind {
            8 => 8,
            1 | 2 => 16,
            3 => 4,
            _ => 84,
        };
        match kind {
            8 if entry.len() > 12 => {
                let crc = crc_of(&[&entry[..8], &entry[12..]]);
                put(entry, 8, crc);
            }
            1 | 2 if entry.len() > REWRITTEN_HEADER_LEN + BATCH_HEADER_LEN => {
                batch(&mut entry[REWRITTEN_HEADER_LEN..]);
                let at = REWRITTEN_HEADER_LEN + 84;
                let crc = crc_of(&[&entry[..16], &entry[at..at + 4]]);
                put(entry, 16, crc);
            }
            3 if entry.len() > 8 => {
                let crc = crc_of(&[&entry[8..]]);
                put(entry, 4, crc);
            }
            _ => batch(entry),
        }
        crcs.extend_from_slice(entry.get(crc_at..crc_at + 4)?);
        offset = end;
    }
    let crc = crc_of(&[salt, &frame[..36], &frame[FRAME_HEADER_LEN..table_end], &crcs]);
    put(frame, 36, crc);
    Some(len)
}

/// Makes the checksum of the footer at the front of `bytes` match; its length.
pub fn footer(bytes: &mut [u8]) -> Option<usize> {
    let len = u32_at(bytes, 8)? as usize;
    let footer = bytes.get_mut(..len).filter(|footer| footer.len() >= 32)?;
    let crc = crc_of(&[&footer[..28], &[0; 4], &footer[32..]]);
    put(footer, 28, crc);
    Some(len)
}
