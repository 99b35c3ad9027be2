//! What is sent to the target at once.

/// Bytes of a block. The driver flushes each one, so it is well above a packet; it is also all that a stream keeps of a
/// table.
pub(super) const BLOCK: usize = 64 * 1024;

/// Collects bytes into blocks of one size. It never grows.
pub(super) struct Block(Vec<u8>);

impl Block {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(BLOCK))
    }

    /// Takes what there is room for; what is left over is for the next block.
    pub(super) fn fill<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let (taken, left) = bytes.split_at(bytes.len().min(BLOCK - self.0.len()));
        self.0.extend_from_slice(taken);
        left
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.len() == BLOCK
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_bytes_passes_through_one_block_and_none_is_lost() {
        let small = (0_u32..200_000).map(|n| vec![n.to_be_bytes()[3]; 7]);
        let large = (0_u32..3).map(|n| vec![n.to_be_bytes()[3]; 5 * 1024 * 1024 + 1]);
        let mut block = Block::new();
        let room = block.0.capacity();
        let (mut put, mut got) = (Vec::new(), Vec::new());
        for row in small.chain(large) {
            put.extend_from_slice(&row);
            let mut rest = row.as_slice();
            while !rest.is_empty() {
                rest = block.fill(rest);
                if block.is_full() {
                    got.extend_from_slice(block.bytes());
                    block.clear();
                }
            }
            assert_eq!(block.0.capacity(), room, "it grew");
        }
        got.extend_from_slice(block.bytes());
        assert!(put == got);
    }
}
