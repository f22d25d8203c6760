//! Datagrams in a stream: each follows its length, in two bytes, the higher first.

use std::io;
use std::ops::Range;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::data::Queue;

/// Bytes of a length.
const LENGTH: usize = 2;
/// The longest frame.
const LONGEST: usize = LENGTH + u16::MAX as usize;

/// Hands on what is read until the stream ends: all datagrams that are there at once.
pub(super) async fn read(
    mut stream: impl AsyncRead + Unpin,
    mut taken: impl FnMut(&mut dyn Iterator<Item = &[u8]>),
) -> io::Result<()> {
    let mut buffer = vec![0; 2 * LONGEST].into_boxed_slice();
    let mut filled = 0;
    let mut found: Vec<Range<usize>> = Vec::new();
    loop {
        let count = stream.read(&mut buffer[filled..]).await?;
        if count == 0 {
            return Ok(());
        }
        filled += count;
        let mut at = 0;
        found.clear();
        while let Some(length) = buffer[at..filled].first_chunk::<LENGTH>() {
            let end = at + LENGTH + usize::from(u16::from_be_bytes(*length));
            if end > filled {
                break;
            }
            found.push(at + LENGTH..end);
            at = end;
        }
        if !found.is_empty() {
            taken(&mut found.iter().map(|range| &buffer[range.clone()]));
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
    }
}

/// Writes what waits, and what is put there, until the stream ends.
pub(super) async fn write(mut stream: impl AsyncWrite + Unpin, queue: &Queue) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(LONGEST);
    loop {
        queue.take(&mut bytes).await;
        stream.write_all(&bytes).await?;
        // TLS keeps what it sealed until it is told that no more comes.
        stream.flush().await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn datagrams_of_all_lengths_are_read_in_whatever_pieces_they_come() {
        let lengths = [0, 1, 2, 1452, 65_535, 7, 0, 65_535, 65_535, 3];
        let datagrams: Vec<Vec<u8>> =
            lengths.iter().zip(1..).map(|(length, number)| vec![number; *length]).collect();
        let mut sent = Vec::new();
        for datagram in &datagrams {
            sent.extend((datagram.len() as u16).to_be_bytes());
            sent.extend(datagram);
        }
        for piece in [3, 1000, 1 << 20] {
            let (ours, mut theirs) = tokio::io::duplex(piece);
            let mut taken: Vec<Vec<u8>> = Vec::new();
            let reading = read(ours, |all| taken.extend(all.map(<[u8]>::to_vec)));
            let writing = async {
                theirs.write_all(&sent).await.unwrap();
                drop(theirs);
            };
            let (ended, ()) = tokio::join!(reading, writing);
            ended.unwrap();
            assert!(taken == datagrams, "in pieces of {piece}");
        }
    }
}
