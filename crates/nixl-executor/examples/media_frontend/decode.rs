//! Images of JPEG and PNG, decoded.

use std::io::Cursor;

use anyhow::{Context as _, Result, bail};
use image::{ImageFormat, ImageReader, Limits};

/// The largest height and width.
const SIDE: u32 = 16_384;

/// Bytes that a decoder may take.
const MEMORY: u64 = 256 << 20;

/// Pixels of three bytes, in row-major order.
pub(crate) struct Decoded {
    /// Height, width, channels.
    pub(crate) shape: [usize; 3],
    pub(crate) pixels: Vec<u8>,
    /// The format of the encoded image, by its name in the crate `image`.
    pub(crate) format: String,
}

/// Decodes an image of limited size.
pub(crate) fn decode(encoded: &[u8]) -> Result<Decoded> {
    let mut reader = ImageReader::new(Cursor::new(encoded)).with_guessed_format()?;
    let format = match reader.format() {
        Some(format @ (ImageFormat::Jpeg | ImageFormat::Png)) => format!("{format:?}"),
        _ => bail!("the upload is neither a JPEG nor a PNG"),
    };
    let mut limits = Limits::no_limits();
    limits.max_image_width = Some(SIDE);
    limits.max_image_height = Some(SIDE);
    limits.max_alloc = Some(MEMORY);
    reader.limits(limits);
    let image = reader.decode().context("the image cannot be decoded")?.into_rgb8();
    let shape = [image.height() as usize, image.width() as usize, 3];
    Ok(Decoded { shape, pixels: image.into_raw(), format })
}
