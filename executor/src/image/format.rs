//! What an image is, read from its first bytes as they pass.
//!
//! The layout of a qcow2 header is in QEMU's `docs/interop/qcow2.rst`; all numbers are big-endian.

use kubevmm_api::image::ImageFormat;

/// As many bytes as [`probe`] wants to see (or the whole image, if it is smaller).
pub(super) const HEADER_BYTES: usize = 104;

const MAGIC: [u8; 4] = *b"QFI\xfb";
/// `incompatible_features` bit 2: guest data lies in another file.
const EXTERNAL_DATA_FILE: u64 = 1 << 2;

/// What the first bytes of an image say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    /// The format.
    pub(super) format: ImageFormat,
    /// Size of the disk inside, in bytes; a raw image is as large as its bytes, which the header does not say.
    pub(super) virtual_size: Option<u64>,
}

/// Why an image is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FormatError {
    /// The image is of another format than the object says.
    #[error("spec.format is {wanted}, but the image is {found}: correct spec.format or leave it out")]
    Mismatch {
        /// What the object says.
        wanted: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// The image is an overlay on another file: it would read a file of the host into the guest.
    #[error("the qcow2 image names a backing file: flatten it with `qemu-img convert -O qcow2`")]
    BackingFile,
    /// The image keeps its data in another file.
    #[error("the qcow2 image names an external data file: flatten it with `qemu-img convert -O qcow2`")]
    DataFile,
    /// A web page or another text.
    #[error("what the server sent is no disk image: {0}")]
    NotAnImage(&'static str),
}

impl FormatError {
    /// The reason as it stands in conditions.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Mismatch { .. } => "FormatMismatch",
            Self::BackingFile | Self::DataFile => "BackingFileRefused",
            Self::NotAnImage(_) => "NotAnImage",
        }
    }
}

/// Reads the first bytes of an image (at least [`HEADER_BYTES`], or all of it).
pub(super) fn probe(head: &[u8], wanted: Option<ImageFormat>) -> Result<Probe, FormatError> {
    if head.is_empty() {
        return Err(FormatError::NotAnImage("it is empty"));
    }
    let found = if head.starts_with(&MAGIC) { ImageFormat::Qcow2 } else { ImageFormat::Raw };
    if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
        return Err(FormatError::Mismatch { wanted: wanted.as_str(), found: found.as_str() });
    }
    match found {
        ImageFormat::Qcow2 => qcow2(head),
        ImageFormat::Raw if wanted.is_none() && is_markup(head) => Err(FormatError::NotAnImage("it is a web page")),
        ImageFormat::Raw => Ok(Probe { format: ImageFormat::Raw, virtual_size: None }),
    }
}

fn qcow2(head: &[u8]) -> Result<Probe, FormatError> {
    let cut = FormatError::NotAnImage("its qcow2 header is cut off");
    let version = u32_at(head, 4).ok_or(cut.clone())?;
    if !(2..=3).contains(&version) {
        return Err(FormatError::NotAnImage("its qcow2 header has an unknown version"));
    }
    if u64_at(head, 8).ok_or(cut.clone())? != 0 {
        return Err(FormatError::BackingFile);
    }
    let size = u64_at(head, 24).ok_or(cut.clone())?;
    if version == 3 && u64_at(head, 72).ok_or(cut)? & EXTERNAL_DATA_FILE != 0 {
        return Err(FormatError::DataFile);
    }
    Ok(Probe { format: ImageFormat::Qcow2, virtual_size: Some(size) })
}

fn is_markup(head: &[u8]) -> bool {
    let text = head.trim_ascii_start().to_ascii_lowercase();
    [&b"<!doctype"[..], b"<html", b"<?xml", b"<head"].iter().any(|start| text.starts_with(start))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A qcow2 header as `qemu-img create -f qcow2 x 1G` writes it, with what a test wants changed.
    fn header(version: u32, backing_offset: u64, incompatible: u64) -> Vec<u8> {
        let mut head = vec![0; HEADER_BYTES];
        head[..4].copy_from_slice(&MAGIC);
        head[4..8].copy_from_slice(&version.to_be_bytes());
        head[8..16].copy_from_slice(&backing_offset.to_be_bytes());
        head[24..32].copy_from_slice(&(1u64 << 30).to_be_bytes());
        head[72..80].copy_from_slice(&incompatible.to_be_bytes());
        head
    }

    #[test]
    fn images_are_told_apart() {
        let qcow2 = Probe { format: ImageFormat::Qcow2, virtual_size: Some(1 << 30) };
        assert_eq!(probe(&header(3, 0, 0), None), Ok(qcow2));
        assert_eq!(probe(&header(2, 0, 4), Some(ImageFormat::Qcow2)), Ok(qcow2), "version 2 has no feature bits");
        let raw = Probe { format: ImageFormat::Raw, virtual_size: None };
        assert_eq!(probe(&[0x33, 0xc0, 0x8e], None), Ok(raw));
    }

    #[test]
    fn what_reads_other_files_is_refused() {
        assert_eq!(probe(&header(3, 104, 0), None), Err(FormatError::BackingFile));
        assert_eq!(probe(&header(3, 0, EXTERNAL_DATA_FILE), None), Err(FormatError::DataFile));
    }

    #[test]
    fn what_is_no_image_is_refused() {
        assert_eq!(probe(b"", None).unwrap_err().reason(), "NotAnImage");
        assert_eq!(probe(b"\n<!DOCTYPE html><html>", None).unwrap_err().reason(), "NotAnImage");
        assert_eq!(probe(&header(3, 0, 0)[..20], None).unwrap_err().reason(), "NotAnImage");
        assert_eq!(probe(&header(9, 0, 0), None).unwrap_err().reason(), "NotAnImage");
        assert_eq!(probe(b"<html>", Some(ImageFormat::Qcow2)).unwrap_err().reason(), "FormatMismatch");
        assert_eq!(probe(&header(3, 0, 0), Some(ImageFormat::Raw)).unwrap_err().reason(), "FormatMismatch");
    }
}
