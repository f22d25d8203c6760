//! Tokens as bytes, and as text around them.

use epsilon_proto::id::Digest;
use epsilon_proto::key::Strict;
use epsilon_proto::token::{Token, TokenError};
use epsilon_proto::wire;

use crate::{decoding, samples};

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The bytes as the content of a token whose length and checksum fit.
fn framed(content: &[u8]) -> String {
    let mut bytes = [&(content.len() as u32).to_be_bytes()[..], content].concat();
    let check = Digest::of(&bytes);
    bytes.extend(&check.0[..4]);
    let mut text = String::from("epsilon1_");
    for three in bytes.chunks(3) {
        let group = three.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte));
        let group = group << (8 * (3 - three.len()));
        for place in 0..=three.len() {
            text.push(char::from(ALPHABET[(group >> (18 - 6 * place) & 63) as usize]));
        }
    }
    text
}

/// The content of a token, read from bytes and from a text that is well
/// formed around it.
pub fn token(content: &[u8]) {
    let decoded = decoding::decode::<Token>(content);
    let text = framed(content);
    match (text.parse::<Token>(), decoded) {
        (Ok(read), Some(token)) => {
            assert_eq!(read, token);
            if !decoding::skips(content) {
                assert_eq!(*token.to_text(), text);
            }
            if let Ok(verified) = token.verify(&Strict) {
                let _ = verified.expired(samples::NOW);
            }
        }
        (Err(TokenError::Malformed(_)), None) => {}
        (Err(TokenError::TooLong(_) | TokenError::Checksum), _) => assert!(text.len() > 16_000),
        (read, decoded) => panic!("{read:?} but {decoded:?}"),
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    vec![wire::encode(&samples::founding().token)]
}
