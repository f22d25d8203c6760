//! Colours, where they are wanted.

use std::borrow::Cow;

/// How a piece of text is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it comes.
    Plain,
    /// What stands out.
    Strong,
    /// What explains.
    Faint,
    /// It works.
    Good,
    /// It half works.
    Fair,
    /// It does not work.
    Bad,
}

/// Whether colours are shown at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Palette {
    coloured: bool,
}

impl Palette {
    pub(crate) const PLAIN: Self = Self { coloured: false };
    pub(crate) const COLOURED: Self = Self { coloured: true };

    /// Colours for a terminal, unless `NO_COLOR` is set (<https://no-color.org>)
    /// or the terminal is `dumb`.
    pub(crate) fn for_stream(terminal: bool) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if terminal && !set("NO_COLOR") && !dumb { Self::COLOURED } else { Self::PLAIN }
    }

    pub(crate) fn paint(self, tone: Tone, text: &str) -> Cow<'_, str> {
        let code = match tone {
            Tone::Plain => return Cow::Borrowed(text),
            Tone::Strong => "1",
            Tone::Faint => "2",
            Tone::Good => "32",
            Tone::Fair => "33",
            Tone::Bad => "31",
        };
        if self.coloured {
            Cow::Owned(format!("\u{1b}[{code}m{text}\u{1b}[0m"))
        } else {
            Cow::Borrowed(text)
        }
    }
}
