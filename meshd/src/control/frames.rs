//! Length-prefixed frames: four bytes of length, big endian, then the bytes.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Why a frame could not be sent or read.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame of {length} bytes is larger than the {most} allowed")]
    Oversize { length: usize, most: usize },
    #[error("the connection broke off: {0}")]
    Io(#[from] io::Error),
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Io(error) => error,
            FrameError::Oversize { .. } => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// Writes one frame and flushes it.
pub(super) async fn write_frame<S>(
    stream: &mut S,
    bytes: &[u8],
    most: usize,
) -> Result<(), FrameError>
where
    S: AsyncWrite + Unpin,
{
    let length = checked(bytes.len(), most)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(bytes).await?;
    stream.flush().await?;
    Ok(())
}

/// Reads one frame and nothing beyond it.
///
/// What it costs grows with what arrives, not with what is promised.
pub(super) async fn read_frame<S>(stream: &mut S, most: usize) -> Result<Vec<u8>, FrameError>
where
    S: AsyncRead + Unpin,
{
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = checked(u32::from_be_bytes(length) as usize, most)?;
    let mut bytes = Vec::new();
    let mut rest = stream.take(u64::from(length));
    rest.read_to_end(&mut bytes).await?;
    if rest.limit() > 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(bytes)
}

fn checked(length: usize, most: usize) -> Result<u32, FrameError> {
    match u32::try_from(length) {
        Ok(fits) if length <= most => Ok(fits),
        _ => Err(FrameError::Oversize { length, most }),
    }
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;

    use super::*;

    const MOST: usize = 1000;

    #[tokio::test]
    async fn a_frame_arrives_as_it_was_sent() {
        for frame in [&b""[..], &b"x"[..], &[7; MOST][..]] {
            let mut wire = Cursor::new(Vec::new());
            write_frame(&mut wire, frame, MOST).await.unwrap();
            wire.set_position(0);
            assert_eq!(read_frame(&mut wire, MOST).await.unwrap(), frame);
        }
    }

    #[tokio::test]
    async fn an_oversize_frame_is_neither_sent_nor_read() {
        let mut wire = Cursor::new(Vec::new());
        let sent = write_frame(&mut wire, &[0; MOST + 1], MOST).await;
        assert!(matches!(sent, Err(FrameError::Oversize { length: 1001, .. })));
        assert!(wire.get_ref().is_empty());
        for length in [u32::MAX, MOST as u32 + 1] {
            let mut wire = Cursor::new(length.to_be_bytes().to_vec());
            let read = read_frame(&mut wire, MOST).await;
            assert!(matches!(read, Err(FrameError::Oversize { .. })));
        }
    }

    #[tokio::test]
    async fn a_truncated_frame_is_an_error() {
        for wire in [&[0, 0][..], &[0, 0, 0, 4, 1, 2][..]] {
            let read = read_frame(&mut Cursor::new(wire.to_vec()), MOST).await;
            assert!(matches!(read, Err(FrameError::Io(_))), "{wire:?}");
        }
    }
}
