use serde::de::{self, Deserializer, Unexpected};
use serde::{Deserialize, Serialize, Serializer};

/// The schema tag that every reply, problem and event carries.
pub const SCHEMA: &str = "epsilon/v1";

/// [`SCHEMA`] as a value: it always says the same, and reads nothing else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Schema;

impl Serialize for Schema {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(SCHEMA)
    }
}

impl<'de> Deserialize<'de> for Schema {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = String::deserialize(deserializer)?;
        if found == SCHEMA {
            Ok(Self)
        } else {
            Err(de::Error::invalid_value(Unexpected::Str(&found), &"\"epsilon/v1\""))
        }
    }
}

/// What goes over the wire and out of `-o json`: a body and its schema tag.
///
/// The tag is added in this one place, so that no reply can forget it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document<T> {
    /// Always `epsilon/v1`.
    pub schema: Schema,
    /// The body; its fields stand beside `schema`.
    #[serde(flatten)]
    pub body: T,
}

impl<T> Document<T> {
    /// Tags `body` with the schema.
    pub fn new(body: T) -> Self {
        Self { schema: Schema, body }
    }
}
