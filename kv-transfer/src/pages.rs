//! Runs of pages between arena and socket, without a copy in between.

use std::io::{self, IoSlice, IoSliceMut};

use baton_device::{Arena, PageError, PageRead, PageWrite};
use baton_kv_cache::BlockRef;
use baton_transfer_protocol::{Frame, PageRun};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use xxhash_rust::xxh3::xxh3_64;

/// Reads guards on `blocks` of `layer` and writes frame and pages with as few calls as the kernel
/// allows.
pub(crate) async fn send_run(
    writer: &mut OwnedWriteHalf,
    arena: &Arena,
    layer: u32,
    first_block: u32,
    blocks: &[BlockRef],
) -> io::Result<()> {
    let pages: Vec<PageRead<'_>> = blocks
        .iter()
        .map(|block| arena.read(layer, block.id()))
        .collect::<Result<_, PageError>>()
        .map_err(io::Error::other)?;
    let checksums = pages.iter().map(|page| xxh3_64(page)).collect();
    let mut header = Vec::with_capacity(16 + 8 * pages.len());
    Frame::Pages(PageRun { layer, first_block, checksums }).encode(&mut header);
    let mut slices: Vec<_> = std::iter::once(&header[..])
        .chain(pages.iter().map(|page| &page[..]))
        .map(IoSlice::new)
        .collect();
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        writer.writable().await?;
        match writer.try_write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills the pages of `blocks` in `layer` from the socket and gives their checksums.
pub(crate) async fn receive_run(
    reader: &OwnedReadHalf,
    arena: &Arena,
    layer: u32,
    blocks: &[BlockRef],
) -> io::Result<Vec<u64>> {
    let mut pages: Vec<PageWrite<'_>> = blocks
        .iter()
        .map(|block| arena.write(layer, block.id()))
        .collect::<Result<_, PageError>>()
        .map_err(io::Error::other)?;
    let mut slices: Vec<_> = pages.iter_mut().map(|page| IoSliceMut::new(page)).collect();
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        reader.readable().await?;
        match reader.try_read_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => IoSliceMut::advance_slices(&mut rest, read),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(pages.iter().map(|page| xxh3_64(page)).collect())
}
