//! Metadata of decoded images and videos.

use std::fmt;

use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::other::{Bounded, OtherMetadata};
use crate::native::bounded;
use crate::{Field, MetadataError};

/// The metadata of decoded media.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub enum MediaMetadata {
    /// Of an image.
    Image(ImageMetadata),
    /// Of a video.
    Video(VideoMetadata),
    /// Of a kind of media, or with a layout, of later versions of Dynamo.
    #[serde(untagged)]
    Other(OtherMetadata),
}

/// A known kind that does not fit is an error; other kinds are kept.
impl<'de> Deserialize<'de> for MediaMetadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Kind;

        impl<'de> Visitor<'de> for Kind {
            type Value = MediaMetadata;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a kind of media and its metadata")
            }

            fn visit_str<E: Error>(self, kind: &str) -> Result<MediaMetadata, E> {
                Ok(MediaMetadata::Other(OtherMetadata(kind.into())))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MediaMetadata, A::Error> {
                let Some(kind) = map.next_key::<String>()? else {
                    return Err(A::Error::invalid_length(0, &self));
                };
                let metadata = match &*kind {
                    "Video" => MediaMetadata::Video(map.next_value()?),
                    _ => {
                        let Bounded(fields) = map.next_value()?;
                        let is_known = kind == "Image" && !has_later_layout(&fields);
                        match is_known {
                            true => MediaMetadata::Image(
                                serde_json::from_value(fields).map_err(A::Error::custom)?,
                            ),
                            false => MediaMetadata::Other(OtherMetadata(json!({ kind: fields }))),
                        }
                    }
                };
                match map.next_key::<IgnoredAny>()? {
                    Some(_) => Err(A::Error::invalid_length(2, &self)),
                    None => Ok(metadata),
                }
            }
        }

        deserializer.deserialize_any(Kind)
    }
}

fn has_later_layout(image: &Value) -> bool {
    image["layout"].as_str().is_some_and(|layout| layout != "HWC")
}

/// The metadata of a decoded image. Its shape is height, width, channels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMetadata {
    format: Option<String>,
    color_type: String,
    layout: ImageLayout,
}

impl ImageMetadata {
    /// Of an image whose encoded format and channels have these names in the crate `image`, such as `Png` and `Rgb8`.
    pub fn new(format: Option<String>, color_type: impl Into<String>, layout: ImageLayout) -> Self {
        Self { format, color_type: color_type.into(), layout }
    }

    /// The format of the encoded image, by its name in the crate `image`, such as `Png`.
    #[must_use]
    pub fn format(&self) -> Option<&str> {
        self.format.as_deref()
    }

    /// The channels and their width, by their name in the crate `image`, such as `Rgb8`.
    #[must_use]
    pub fn color_type(&self) -> &str {
        &self.color_type
    }

    /// The order of the dimensions.
    #[must_use]
    pub const fn layout(&self) -> ImageLayout {
        self.layout
    }
}

/// The order of an image's dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ImageLayout {
    /// Height, width, channels.
    HWC,
}

/// The metadata of a decoded video. Its shape is frames, height, width, channels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VideoMetadata {
    source_fps: f64,
    source_duration: f64,
    #[serde(deserialize_with = "bounded::<_, _, { VideoMetadata::MAX_FRAMES }>")]
    sampled_timestamps: Vec<f64>,
    // Of Dynamo after 1.6.1, as is the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source_total_frames: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "frames")]
    frames_indices: Option<Vec<i64>>,
}

impl VideoMetadata {
    /// The most frames.
    pub const MAX_FRAMES: usize = 1 << 16;

    /// Of a video with so many frames in a second and of so many seconds, of which the frames at these seconds were decoded.
    #[must_use]
    pub const fn new(source_fps: f64, source_duration: f64, sampled_timestamps: Vec<f64>) -> Self {
        let (source_total_frames, frames_indices) = (None, None);
        Self {
            source_fps,
            source_duration,
            sampled_timestamps,
            source_total_frames,
            frames_indices,
        }
    }

    /// Frames of the encoded video in a second.
    #[must_use]
    pub const fn source_fps(&self) -> f64 {
        self.source_fps
    }

    /// The length of the encoded video in seconds.
    #[must_use]
    pub const fn source_duration(&self) -> f64 {
        self.source_duration
    }

    /// The second of each frame.
    #[must_use]
    pub fn sampled_timestamps(&self) -> &[f64] {
        &self.sampled_timestamps
    }

    /// The number of frames of the encoded video, from Dynamo after 1.6.1.
    #[must_use]
    pub const fn source_total_frames(&self) -> Option<i64> {
        self.source_total_frames
    }

    /// The number of each frame in the encoded video, from Dynamo after 1.6.1.
    #[must_use]
    pub fn frames_indices(&self) -> Option<&[i64]> {
        self.frames_indices.as_deref()
    }

    /// The JSON that the content hash is over.
    pub(super) fn to_json(&self) -> String {
        // Numbers and lists of them cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl MediaMetadata {
    /// The longest name of a format or of a type of colours, in bytes.
    pub(super) const MAX_NAME_BYTES: usize = 32;

    /// Checks it against the shape that it belongs to.
    pub(super) fn check(&self, shape: &[u64]) -> Result<(), MetadataError> {
        let limit = Self::MAX_NAME_BYTES;
        match self {
            Self::Image(image) => {
                let names = image.format.iter().chain([&image.color_type]);
                let longest = names.map(String::len).max().unwrap_or(0);
                match longest > limit {
                    true => Err(MetadataError::TooLarge {
                        field: Field::MediaName,
                        len: longest,
                        limit,
                    }),
                    false => Ok(()),
                }
            }
            Self::Other(_) => Ok(()),
            Self::Video(video) => {
                let mut numbers = video
                    .sampled_timestamps
                    .iter()
                    .chain([&video.source_fps, &video.source_duration]);
                if !numbers.all(|number| number.is_finite()) {
                    return Err(MetadataError::MediaNumber);
                }
                let stated = video.sampled_timestamps.len();
                if stated > VideoMetadata::MAX_FRAMES {
                    return Err(MetadataError::MediaFrameLimit {
                        limit: VideoMetadata::MAX_FRAMES,
                    });
                }
                let indices = video.frames_indices.as_ref().map_or(stated, Vec::len);
                let frames = shape.first().copied().unwrap_or(0);
                match [stated, indices].iter().find(|count| **count as u64 != frames) {
                    Some(&stated) => Err(MetadataError::MediaFrames { stated, frames }),
                    None => Ok(()),
                }
            }
        }
    }
}

fn frames<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<i64>>, D::Error> {
    bounded::<_, _, { VideoMetadata::MAX_FRAMES }>(deserializer).map(Some)
}
