//! Records like those that the numbers of DESIGN.md section 11 were measured with.

/// Length of a record, in bytes.
pub const RECORD_BYTES: usize = 256;

/// Records of [`RECORD_BYTES`], half of each compressible, all different.
#[derive(Debug)]
pub struct Payload {
    records: Vec<[u8; RECORD_BYTES]>,
}

impl Payload {
    /// `count` records, always the same.
    pub fn new(count: usize) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut word = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        let records = (0..count).map(|_| {
            let mut record = [b' '; RECORD_BYTES];
            record[..RECORD_BYTES / 2].chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&word()));
            record
        });
        Self { records: records.collect() }
    }

    /// The records.
    pub fn records(&self) -> &[[u8; RECORD_BYTES]] {
        &self.records
    }

    /// The records one after the other.
    pub fn bytes(&self) -> &[u8] {
        self.records.as_flattened()
    }
}
