//! A volume's bytes as async streams.
//!
//! Each stream has a thread of its own, because `virStreamSend` and `virStreamRecv` block as long as the other side
//! lets them. Between it and the async side is a channel of a few chunks, so a slow side slows the other one down. A
//! stream that is dropped before its end is aborted (`virStreamAbort`): the volume then holds whatever has arrived.

use std::ffi::c_char;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::bytes::Bytes;
use virt::sys;

use super::connection::Patience;
use super::error::{Error, ErrorCode, Failure, Result};
use super::ffi::check;
use super::handle::owned_pointer;
use super::storage_vol::StorageVol;

/// libvirt's RPC carries at most 256 KiB less its header at a time.
const CHUNK_BYTES: usize = 256 * 1024 - 24;
const CHUNKS_IN_FLIGHT: usize = 4;

owned_pointer!(RawStream, _virStream, virStreamFree);

/// What the async side tells an upload's thread; a closed channel means abort.
enum Order {
    Send(Bytes),
    Finish,
}

/// A running upload. Dropping it before [`Upload::finish`] aborts it.
pub struct Upload {
    orders: mpsc::Sender<Order>,
    done: oneshot::Receiver<Result<u64>>,
    /// Bytes still to come, where the length was announced.
    missing: Option<u64>,
    stall: Duration,
    object: String,
}

/// A running download: a [`Stream`] of chunks that ends after the last byte, or with an error. Dropping it aborts it.
pub struct Download {
    chunks: mpsc::Receiver<Result<Bytes>>,
}

impl StorageVol {
    /// `virStorageVolUpload`: writes bytes from `offset` on; `length` 0 means as many as come. With a length, exactly as
    /// many bytes must come: libvirtd (11.3) crashes when a client sends more, so more are refused here.
    pub async fn upload(&self, offset: u64, length: u64) -> Result<Upload> {
        let stream = self
            .open_stream("virStorageVolUpload", move |volume, stream| {
                // SAFETY: `open_stream` passes a live volume and stream.
                check(unsafe { sys::virStorageVolUpload(volume, stream, offset, length, 0) })
            })
            .await?;
        let (orders, received) = mpsc::channel(CHUNKS_IN_FLIGHT);
        let (report, done) = oneshot::channel();
        let object = self.object();
        let volume = self.clone();
        self.spawn_pump("libvirt-upload", move || {
            let result = send_all(&stream, received);
            // The receiver is gone when the upload was dropped.
            drop(report.send(result.map_err(|failure| failure.on("virStreamSend", &volume.object()))));
        })?;
        let missing = (length > 0).then_some(length);
        Ok(Upload { orders, done, missing, stall: self.connection().options().stream_stall_timeout, object })
    }

    /// `virStorageVolDownload`: reads bytes from `offset` on; `length` 0 means up to the end.
    pub async fn download(&self, offset: u64, length: u64) -> Result<Download> {
        let stream = self
            .open_stream("virStorageVolDownload", move |volume, stream| {
                // SAFETY: `open_stream` passes a live volume and stream.
                check(unsafe { sys::virStorageVolDownload(volume, stream, offset, length, 0) })
            })
            .await?;
        let (sender, chunks) = mpsc::channel(CHUNKS_IN_FLIGHT);
        let volume = self.clone();
        self.spawn_pump("libvirt-download", move || {
            if let Err(failure) = receive_all(&stream, &sender) {
                // The receiver is gone when the download was dropped.
                drop(sender.blocking_send(Err(failure.on("virStreamRecv", &volume.object()))));
            }
        })?;
        Ok(Download { chunks })
    }

    /// `virStreamNew`, and the call that binds the stream to the volume.
    async fn open_stream<F>(&self, operation: &'static str, bind: F) -> Result<RawStream>
    where
        F: FnOnce(sys::virStorageVolPtr, sys::virStreamPtr) -> Result<i32, Failure> + Send + 'static,
    {
        let volume = Arc::clone(self.raw());
        let call = move |conn| {
            // SAFETY: `call` passes an open connection; the result is a reference of ours.
            let stream = unsafe { RawStream::adopt(sys::virStreamNew(conn, 0)) }?;
            bind(volume.as_ptr(), stream.as_ptr())?;
            Ok(stream)
        };
        self.connection().call(operation, &self.object(), Patience::Long, call).await
    }

    fn spawn_pump(&self, name: &str, pump: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(pump);
        thread.map(drop).map_err(|error| {
            let message = format!("cannot start a thread: {error}");
            Failure::new(ErrorCode::Busy, message).on("virStreamNew", &self.object())
        })
    }
}

/// Sends what comes, then ends the stream (`virStreamFinish`, whose result is the volume's) and counts the bytes.
fn send_all(stream: &RawStream, mut orders: mpsc::Receiver<Order>) -> Result<u64, Failure> {
    let mut sent = 0;
    loop {
        match orders.blocking_recv() {
            Some(Order::Send(bytes)) => {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let chunk = &rest[..rest.len().min(CHUNK_BYTES)];
                    // SAFETY: the chunk lives during the call.
                    let result =
                        unsafe { sys::virStreamSend(stream.as_ptr(), chunk.as_ptr().cast::<c_char>(), chunk.len()) };
                    let count = match check(result) {
                        Ok(count) => usize::try_from(count).unwrap_or(0),
                        Err(failure) => {
                            abort(stream);
                            return Err(failure);
                        }
                    };
                    sent += count as u64;
                    rest = &rest[count..];
                }
            }
            Some(Order::Finish) => {
                // SAFETY: the stream lives.
                check(unsafe { sys::virStreamFinish(stream.as_ptr()) })?;
                return Ok(sent);
            }
            None => {
                abort(stream);
                return Err(Failure::new(ErrorCode::Aborted, "the upload was given up"));
            }
        }
    }
}

/// Receives up to the end, then ends the stream (`virStreamFinish`).
fn receive_all(stream: &RawStream, chunks: &mpsc::Sender<Result<Bytes>>) -> Result<(), Failure> {
    let mut buffer = vec![0_u8; CHUNK_BYTES];
    loop {
        // SAFETY: the buffer lives during the call and has this length.
        let result = unsafe { sys::virStreamRecv(stream.as_ptr(), buffer.as_mut_ptr().cast::<c_char>(), buffer.len()) };
        let count = match check(result) {
            Ok(0) => {
                // SAFETY: the stream lives.
                return check(unsafe { sys::virStreamFinish(stream.as_ptr()) }).map(drop);
            }
            Ok(count) => usize::try_from(count).unwrap_or(0),
            Err(failure) => {
                abort(stream);
                return Err(failure);
            }
        };
        if chunks.blocking_send(Ok(Bytes::copy_from_slice(&buffer[..count]))).is_err() {
            abort(stream);
            return Ok(());
        }
    }
}

fn abort(stream: &RawStream) {
    // SAFETY: the stream lives. A failure leaves nothing to do: the stream is freed next.
    unsafe { sys::virStreamAbort(stream.as_ptr()) };
}

impl Upload {
    /// Hands over bytes; waits while libvirt is slower. An error is final.
    pub async fn send(&mut self, bytes: Bytes) -> Result<()> {
        if let Some(missing) = &mut self.missing {
            *missing = missing
                .checked_sub(bytes.len() as u64)
                .ok_or_else(|| wrong_length(&self.object, "more bytes came than were announced"))?;
        }
        match tokio::time::timeout(self.stall, self.orders.send(Order::Send(bytes))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.outcome().await.err().unwrap_or_else(|| self.stopped())),
            Err(_) => Err(self.stalled()),
        }
    }

    /// Ends the stream and waits until libvirt has written everything; returns the number of bytes sent.
    pub async fn finish(mut self) -> Result<u64> {
        if self.missing.is_some_and(|missing| missing > 0) {
            return Err(wrong_length(&self.object, "fewer bytes came than were announced"));
        }
        match tokio::time::timeout(self.stall, self.orders.send(Order::Finish)).await {
            Ok(_) => self.outcome().await,
            Err(_) => Err(self.stalled()),
        }
    }

    async fn outcome(&mut self) -> Result<u64> {
        match tokio::time::timeout(self.stall, &mut self.done).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(self.stopped()),
            Err(_) => Err(self.stalled()),
        }
    }

    fn stalled(&self) -> Error {
        let message = format!("no progress within {} s", self.stall.as_secs_f32());
        Failure::new(ErrorCode::Timeout, message).on("virStreamSend", &self.object)
    }

    fn stopped(&self) -> Error {
        Failure::new(ErrorCode::Aborted, "the stream has ended").on("virStreamSend", &self.object)
    }
}

fn wrong_length(object: &str, message: &str) -> Error {
    Failure::new(ErrorCode::InvalidArgument, message).on("virStreamSend", object)
}

impl Stream for Download {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.chunks.poll_recv(context)
    }
}

impl Download {
    /// The next chunk; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        self.chunks.recv().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An upload whose thread is the test.
    fn upload(missing: Option<u64>) -> (Upload, mpsc::Receiver<Order>, oneshot::Sender<Result<u64>>) {
        let (orders, received) = mpsc::channel(1);
        let (report, done) = oneshot::channel();
        let stall = Duration::from_millis(50);
        (Upload { orders, done, missing, stall, object: "volume /pool/a".to_owned() }, received, report)
    }

    #[tokio::test]
    async fn more_bytes_than_announced_never_reach_libvirt() {
        let (mut upload, mut received, _report) = upload(Some(3));
        assert_eq!(upload.send(Bytes::from_static(b"four")).await.unwrap_err().code, ErrorCode::InvalidArgument);
        assert!(received.try_recv().is_err());
    }

    #[tokio::test]
    async fn an_upload_that_is_too_short_is_aborted_and_not_finished() {
        let (mut upload, mut received, _report) = upload(Some(5));
        upload.send(Bytes::from_static(b"four")).await.unwrap();
        assert_eq!(upload.finish().await.unwrap_err().code, ErrorCode::InvalidArgument);
        assert!(matches!(received.recv().await, Some(Order::Send(_))));
        assert!(received.recv().await.is_none());
    }

    #[tokio::test]
    async fn a_stream_that_stands_still_times_out() {
        let (mut upload, _received, _report) = upload(None);
        upload.send(Bytes::from_static(b"a")).await.unwrap();
        assert_eq!(upload.send(Bytes::from_static(b"b")).await.unwrap_err().code, ErrorCode::Timeout);
    }

    #[tokio::test]
    async fn libvirts_error_reaches_the_sender() {
        let (mut upload, received, report) = upload(None);
        drop(received);
        report.send(Err(Failure::new(ErrorCode::SystemError, "no space left").on("virStreamSend", "x"))).unwrap();
        assert_eq!(upload.send(Bytes::from_static(b"a")).await.unwrap_err().message, "no space left");
    }

    #[tokio::test]
    async fn the_end_reports_how_much_was_sent() {
        let (mut upload, mut received, report) = upload(Some(4));
        upload.send(Bytes::from_static(b"four")).await.unwrap();
        tokio::spawn(async move {
            while !matches!(received.recv().await, Some(Order::Finish)) {}
            report.send(Ok(4)).unwrap();
        });
        assert_eq!(upload.finish().await.unwrap(), 4);
    }
}
