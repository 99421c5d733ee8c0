//! Compressors for the image, decoders for what the distribution ships compressed.
//!
//! Everything runs on one thread, so that the same input gives the same bytes on every machine.

use std::io::{self, Read, Write};
use std::path::Path;
use std::str::FromStr;

use flate2::write::GzEncoder;

/// A decoded file is at most this long, in bytes: far above any module or firmware, and a bound
/// on what a broken file can make us allocate.
const DECODED_BYTES_MAX: u64 = 512 << 20;

/// Window of the image's zstd frame, log2 of bytes. The kernel takes up to 128 MiB, but must find
/// that memory at boot; 8 MiB cost no more than 1 % of size here.
const ZSTD_WINDOW_LOG: u32 = 23;
/// Slow to make, small to load. Level 22 gains at most 2 % and wants half a gigabyte for it.
const ZSTD_LEVEL: i32 = 19;

/// How the image is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// Linux 5.9 and later with CONFIG_RD_ZSTD.
    Zstd,
    /// Any kernel.
    Gzip,
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Compression, String> {
        match text {
            "zstd" => Ok(Compression::Zstd),
            "gzip" => Ok(Compression::Gzip),
            _ => Err(format!("{text:?} is neither zstd nor gzip")),
        }
    }
}

impl Compression {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Compression::Zstd => "zstd",
            Compression::Gzip => "gzip",
        }
    }
}

/// Writes compressed what is written to it.
pub(crate) enum Encoder<W: Write> {
    Zstd(zstd::stream::write::Encoder<'static, W>),
    Gzip(GzEncoder<W>),
}

impl<W: Write> Encoder<W> {
    pub(crate) fn new(compression: Compression, out: W) -> io::Result<Encoder<W>> {
        Ok(match compression {
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?;
                encoder.window_log(ZSTD_WINDOW_LOG)?;
                encoder.include_checksum(true)?;
                Encoder::Zstd(encoder)
            }
            // Without name and time: the defaults of GzBuilder.
            Compression::Gzip => Encoder::Gzip(GzEncoder::new(out, flate2::Compression::best())),
        })
    }

    pub(crate) fn finish(self) -> io::Result<W> {
        match self {
            Encoder::Zstd(encoder) => encoder.finish(),
            Encoder::Gzip(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Encoder::Zstd(encoder) => encoder.write(bytes),
            Encoder::Gzip(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Encoder::Zstd(encoder) => encoder.flush(),
            Encoder::Gzip(encoder) => encoder.flush(),
        }
    }
}

/// Reads a file, decoding it by its suffix: `.xz`, `.zst`, `.gz`, or plain.
pub(crate) fn read_decoded(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = std::fs::read(path)?;
    let suffix = path.extension().and_then(|s| s.to_str());
    let decoder: Box<dyn Read + '_> = match suffix {
        Some("xz") => Box::new(lzma_rust2::XzReader::new(bytes.as_slice(), true)),
        Some("zst") => Box::new(zstd::stream::read::Decoder::new(bytes.as_slice())?),
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(bytes.as_slice())),
        _ => return Ok(bytes),
    };
    let mut decoded = Vec::new();
    decoder.take(DECODED_BYTES_MAX + 1).read_to_end(&mut decoded)?;
    if decoded.len() as u64 > DECODED_BYTES_MAX {
        return Err(io::Error::other("decodes to more than 512 MiB"));
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressed(compression: Compression, bytes: &[u8]) -> Vec<u8> {
        let mut encoder = Encoder::new(compression, Vec::new()).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn what_is_written_is_read_back_and_is_the_same_each_time() {
        let text = b"lunboot ".repeat(10_000);
        let directory = tempfile::tempdir().unwrap();
        for (compression, suffix) in [(Compression::Zstd, "zst"), (Compression::Gzip, "gz")] {
            let bytes = compressed(compression, &text);
            assert_eq!(bytes, compressed(compression, &text));
            assert!(bytes.len() < 1000, "{suffix}: {} bytes", bytes.len());
            let path = directory.path().join(format!("x.{suffix}"));
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(read_decoded(&path).unwrap(), text);
        }
    }

    /// The kernel's gzip decoder takes any header, but a time in it would differ in every image.
    #[test]
    fn the_gzip_header_holds_no_time_and_no_name() {
        let bytes = compressed(Compression::Gzip, b"x");
        assert_eq!(bytes[..8], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_broken_file_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        for suffix in ["xz", "zst", "gz"] {
            let path = directory.path().join(format!("broken.ko.{suffix}"));
            std::fs::write(&path, b"\xfd7zXZ\0 but no more").unwrap();
            assert!(read_decoded(&path).is_err(), "{suffix}");
        }
    }
}
