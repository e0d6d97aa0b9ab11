//! What is put into the tree besides mounts and device nodes: directories, links, and the content of files.

use std::fmt;
use std::sync::Arc;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::path::PathBytes;

/// A directory to be made, unless it is there. What isn't said stays as it is, or as a new one has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Where, in the root.
    pub path: PathBytes,
    /// Permission bits; 0755 of a new one.
    pub mode: Option<u32>,
    /// Owner, as the container sees it.
    pub uid: Option<u32>,
    /// Group, as the container sees it.
    pub gid: Option<u32>,
}

/// A symbolic link to be made, unless it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Symlink {
    /// What it says.
    pub target: PathBytes,
    /// Its own name, in the root.
    pub path: PathBytes,
}

/// The bytes of a file. They may be many, so copies share them, and they are encoded as one string of bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct FileContent(Arc<[u8]>);

impl FileContent {
    /// Takes the bytes as they are.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for FileContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileContent({} bytes)", self.0.len())
    }
}

impl Serialize for FileContent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for FileContent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = FileContent;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the bytes of a file")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<FileContent, E> {
                Ok(FileContent::new(bytes))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol;

    #[test]
    fn content_crosses_the_wire_as_it_is() {
        for bytes in [vec![], vec![0, 255, 10], vec![7; 100_000]] {
            let content = FileContent::new(bytes);
            let encoded = protocol::encode(&content);
            assert!(encoded.len() < content.as_bytes().len() + 8);
            assert_eq!(protocol::decode::<FileContent>(&encoded).unwrap(), content);
        }
    }
}
