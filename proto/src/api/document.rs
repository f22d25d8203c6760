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

#[cfg(test)]
mod tests {
    use super::Document;
    use crate::api::{Expiry, Problem, ProblemKind, TokenCreateRequest};

    #[test]
    fn the_tag_stands_beside_the_fields_of_the_body() {
        let document = Document::new(Problem::new(ProblemKind::NotJoined, "no").hint("join"));
        let text = serde_json::to_string(&document).unwrap();
        assert_eq!(
            text,
            r#"{"schema":"epsilon/v1","kind":"not_joined","message":"no","hint":"join"}"#
        );
        assert_eq!(serde_json::from_str::<Document<Problem>>(&text).unwrap(), document);
    }

    #[test]
    fn a_document_of_another_schema_or_of_none_is_refused() {
        for text in [
            r#"{"schema":"epsilon/v2","kind":"error","message":"no"}"#,
            r#"{"schema":1,"kind":"error","message":"no"}"#,
            r#"{"kind":"error","message":"no"}"#,
        ] {
            assert!(serde_json::from_str::<Document<Problem>>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_reply_may_have_fields_that_are_not_known_and_a_request_may_not() {
        let reply = r#"{"schema":"epsilon/v1","kind":"error","message":"no","new":1}"#;
        assert!(serde_json::from_str::<Document<Problem>>(reply).is_ok());
        assert!(serde_json::from_str::<TokenCreateRequest>(r#"{"new":1}"#).is_err());
        let request: TokenCreateRequest =
            serde_json::from_str(r#"{"expires":{"in_seconds":60}}"#).unwrap();
        assert_eq!(request.expires, Some(Expiry::InSeconds(60)));
    }
}
