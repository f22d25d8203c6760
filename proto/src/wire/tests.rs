use super::*;

#[derive(Debug, PartialEq, Clone)]
struct Sample {
    count: u32,
    name: Option<String>,
    items: Vec<u8>,
}
wire_struct!(Sample { 0 => count, 1 => name, 5 => items });

fn sample() -> Sample {
    Sample { count: 7, name: Some("a".into()), items: vec![1, 200] }
}

#[test]
fn a_value_survives_the_wire() {
    assert_eq!(decode::<Sample>(&encode(&sample())), Ok(sample()));
}

#[test]
fn the_encoding_is_fixed() {
    assert_eq!(encode(&sample()), [0xa3, 0, 7, 1, 0x61, b'a', 5, 0x82, 1, 0x18, 200]);
}

#[test]
fn absent_fields_are_left_out() {
    let bare = Sample { count: 0, name: None, items: vec![] };
    assert_eq!(encode(&bare), [0xa1, 0, 0]);
    assert_eq!(decode::<Sample>(&encode(&bare)), Ok(bare));
}

fn refused(bytes: &[u8]) -> WireError {
    decode::<Sample>(bytes).unwrap_err()
}

#[test]
fn each_departure_from_the_one_encoding_is_refused() {
    let cases: &[(&str, &[u8])] = &[
        ("empty input", &[]),
        ("trailing byte", &[0xa1, 0, 7, 0]),
        ("truncated", &[0xa1, 0]),
        ("a length past the end", &[0xa2, 0, 7, 1, 0x7b, 255, 255, 255, 255, 255, 255, 255, 255]),
        ("indefinite map", &[0xbf, 0, 7, 0xff]),
        ("number not shortest", &[0xa1, 0, 0x18, 7]),
        ("key not shortest", &[0xa1, 0x18, 0, 7]),
        ("fields out of order", &[0xa2, 1, 0x61, b'a', 0, 7]),
        ("field doubled", &[0xa2, 0, 7, 0, 7]),
        ("empty list written", &[0xa2, 0, 7, 5, 0x80]),
        ("missing field", &[0xa1, 1, 0x61, b'a']),
        ("unknown field below 64", &[0xa2, 0, 7, 9, 0]),
        ("tag", &[0xa1, 0, 0xc0, 7]),
        ("null", &[0xa1, 0, 0xf6]),
        ("float", &[0xa1, 0, 0xf9, 0, 0]),
        ("negative", &[0xa1, 0, 0x20]),
        ("not UTF-8", &[0xa2, 0, 7, 1, 0x61, 0xff]),
        ("number out of range", &[0xa1, 0, 0x1b, 1, 0, 0, 0, 0, 0, 0, 0]),
    ];
    for (what, bytes) in cases {
        assert!(decode::<Sample>(bytes).is_err(), "{what} was accepted");
    }
    assert_eq!(
        refused(&[0xa2, 0, 7, 9, 0]),
        WireError::UnknownField { structure: "Sample", field: 9 }
    );
}

#[test]
fn an_unknown_field_from_64_is_skipped_but_checked() {
    assert_eq!(
        decode::<Sample>(&[0xa2, 0, 7, 0x18, 64, 0xa1, 1, 0x41, 9]),
        Ok(Sample { count: 7, name: None, items: vec![] })
    );
    assert!(matches!(refused(&[0xa2, 0, 7, 0x18, 64, 0xbf, 0xff]), WireError::NotCanonical(_)));
}

#[test]
fn deep_nesting_is_refused_without_recursing_far() {
    let mut bytes = vec![0xa1, 0x18, 64];
    bytes.extend(std::iter::repeat_n(0x81, 100_000));
    bytes.push(0);
    assert!(matches!(refused(&bytes), WireError::NotCanonical("nested too deep")));
}

proptest::proptest! {
    #[test]
    fn what_decodes_encodes_to_the_same_bytes_unless_fields_were_skipped(
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64)
    ) {
        if let Ok(value) = decode::<Sample>(&bytes) {
            let again = encode(&value);
            proptest::prop_assert!(again.len() <= bytes.len());
            proptest::prop_assert_eq!(decode::<Sample>(&again), Ok(value));
        }
    }
}
