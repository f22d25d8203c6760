//! Secrets that come in from outside: tokens and root keys.

use std::env;
use std::ffi::OsString;
use std::io::{self, Read};
use std::path::Path;

use epsilon_proto::api::{Problem, ProblemKind, Secret};
use epsilon_sys::file;
use zeroize::Zeroizing;

/// No token and no key is longer than that.
const MAX: usize = 64 * 1024;

/// The variables that a token is taken from, in this order.
pub(crate) const VARIABLES: [&str; 2] = ["EPSILON_TOKEN", "EPSILON_TOKEN_FILE"];

/// The token that `argument` means: `-` is standard input, `@FILE` a file,
/// anything else the token; without one the environment decides.
pub(crate) fn token(argument: Option<&str>) -> Result<Secret, Problem> {
    token_from(argument, env::var_os, &mut io::stdin().lock())
}

fn token_from(
    argument: Option<&str>,
    variable: impl Fn(&'static str) -> Option<OsString>,
    input: &mut dyn Read,
) -> Result<Secret, Problem> {
    let variable = |name| variable(name).filter(|value| !value.is_empty());
    let (text, from) = match argument {
        Some("-") => (limited(input, "standard input")?, "standard input".to_owned()),
        Some(argument) => match argument.strip_prefix('@') {
            Some(path) => (token_file(Path::new(path))?, path.to_owned()),
            None => (Zeroizing::new(argument.to_owned()), "the argument".to_owned()),
        },
        None => {
            let [direct, file] = VARIABLES;
            if let Some(token) = variable(direct) {
                (text(token.into_encoded_bytes(), direct)?, direct.to_owned())
            } else if let Some(path) = variable(file) {
                let path = Path::new(&path);
                (token_file(path)?, path.display().to_string())
            } else {
                return Err(Problem::new(ProblemKind::Usage, "no token given").hint(
                    "give it as an argument, as @FILE, as - for standard input, \
                     or in EPSILON_TOKEN or EPSILON_TOKEN_FILE",
                ));
            }
        }
    };
    match text.trim() {
        "" => Err(Problem::new(ProblemKind::Usage, format!("there is no token in {from}"))
            .hint("print one on a member with: epsilon token create")),
        token => Ok(Secret::new(token.to_owned())),
    }
}

fn token_file(path: &Path) -> Result<Zeroizing<String>, Problem> {
    let bytes = file::read_limited(path, MAX).map_err(|error| {
        Problem::new(ProblemKind::Error, format!("no token: {error}"))
            .hint("name the file with the token: @FILE, or EPSILON_TOKEN_FILE=FILE")
    })?;
    text(bytes, &path.display().to_string())
}

/// The root key in `path`, a file that only its owner may read.
pub(crate) fn root_key(path: &Path) -> Result<Secret, Problem> {
    let bytes = file::read_secret(path, MAX).map_err(|error| {
        Problem::new(ProblemKind::Error, format!("no root key: {error}"))
            .hint("it is the file that mesh create --root-key wrote")
    })?;
    let key = text(bytes.to_vec(), &path.display().to_string())?;
    match key.trim() {
        "" => Err(Problem::new(
            ProblemKind::Usage,
            format!("there is no root key in {}", path.display()),
        )
        .hint("it is the file that mesh create --root-key wrote")),
        key => Ok(Secret::new(key.to_owned())),
    }
}

fn limited(input: &mut dyn Read, name: &str) -> Result<Zeroizing<String>, Problem> {
    let mut bytes = Vec::new();
    let read = input.take(MAX as u64 + 1).read_to_end(&mut bytes);
    let bytes = Zeroizing::new(bytes);
    if let Err(error) = read {
        return Err(Problem::new(ProblemKind::Error, format!("cannot read {name}: {error}"))
            .hint("give the token as an argument or as @FILE instead"));
    }
    if bytes.len() > MAX {
        return Err(Problem::new(ProblemKind::Usage, format!("{name} is too long for a token"))
            .hint("give the token alone, one line that begins with epsilon1"));
    }
    text(bytes.to_vec(), name)
}

fn text(bytes: Vec<u8>, name: &str) -> Result<Zeroizing<String>, Problem> {
    String::from_utf8(bytes).map(Zeroizing::new).map_err(|error| {
        drop(Zeroizing::new(error.into_bytes()));
        Problem::new(ProblemKind::Usage, format!("{name} is not text"))
            .hint("a token is one line that begins with epsilon1")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(
        argument: Option<&str>,
        variables: &[(&'static str, &str)],
        input: &str,
    ) -> Result<String, Problem> {
        let variable = |name: &'static str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        };
        token_from(argument, variable, &mut input.as_bytes())
            .map(|secret| secret.expose().to_owned())
    }

    #[test]
    fn a_token_is_taken_from_wherever_it_is_said_to_be() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        std::fs::write(&file, "epsilon1_file\n").unwrap();
        let file = file.to_str().unwrap();
        let at_file = format!("@{file}");

        for (argument, variables, expected) in [
            (Some("epsilon1_argument"), &[][..], "epsilon1_argument"),
            (Some("-"), &[], "epsilon1_input"),
            (Some(at_file.as_str()), &[], "epsilon1_file"),
            (None, &[("EPSILON_TOKEN", "epsilon1_variable")], "epsilon1_variable"),
            (None, &[("EPSILON_TOKEN_FILE", file)], "epsilon1_file"),
            (None, &[("EPSILON_TOKEN", ""), ("EPSILON_TOKEN_FILE", file)], "epsilon1_file"),
            (Some("epsilon1_argument"), &[("EPSILON_TOKEN", "other")], "epsilon1_argument"),
        ] {
            let token = read(argument, variables, "  epsilon1_input \n");
            assert_eq!(token.as_deref(), Ok(expected), "{argument:?} {variables:?}");
        }
    }

    #[test]
    fn no_token_is_a_usage_problem_with_a_next_step() {
        for argument in [None, Some(""), Some("-"), Some("@/dev/null")] {
            let problem = read(argument, &[], " \n").unwrap_err();
            assert_eq!(problem.kind, ProblemKind::Usage, "{argument:?}");
            assert!(problem.hint.is_some(), "{argument:?}");
        }
    }

    #[test]
    fn a_missing_file_and_an_endless_one_are_named() {
        for path in ["/nonexistent/token", "/dev/zero"] {
            let problem = read(Some(&format!("@{path}")), &[], "").unwrap_err();
            assert!(problem.message.contains(path), "{}", problem.message);
        }
    }
}
