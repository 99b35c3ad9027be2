//! What is sent to the target at once.

use std::mem;

/// Bytes of a block. The driver flushes each one, so it is well above a packet.
pub(super) const BLOCK: usize = 64 * 1024;

/// Collects bytes into blocks of one size. It never grows.
pub(super) struct Block(Vec<u8>);

impl Block {
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    /// Takes what there is room for; what is left over is for the next block.
    pub(super) fn fill<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        if self.0.is_empty() {
            self.0.reserve_exact(BLOCK);
        }
        let (taken, left) = bytes.split_at(bytes.len().min(BLOCK - self.0.len()));
        self.0.extend_from_slice(taken);
        left
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.len() == BLOCK
    }

    /// What it has; it is empty then.
    pub(super) fn take(&mut self) -> Vec<u8> {
        mem::take(&mut self.0)
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
        let (mut put, mut got) = (Vec::new(), Vec::new());
        for row in small.chain(large) {
            put.extend_from_slice(&row);
            let mut rest = row.as_slice();
            while !rest.is_empty() {
                rest = block.fill(rest);
                if block.is_full() {
                    got.extend(block.take());
                }
            }
            assert!(block.0.capacity() <= BLOCK, "it grew");
        }
        got.extend(block.take());
        assert!(put == got);
    }
}
