//! The one renderer for tables: plain columns, as wide as their content.

use crate::human::clean;
use crate::style::{Palette, Tone};

/// Two spaces between columns.
const GAP: usize = 2;

/// Text and how it is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: clean(&text.into()), tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// Rows under headings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    headings: Vec<String>,
    /// Columns that give way on a narrow screen, the first one first.
    dispensable: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(headings: &[&'static str]) -> Self {
        Self::headed(headings.iter().map(ToString::to_string).collect())
    }

    /// A table whose first column says what the rows are, under `corner`.
    pub(crate) fn grid(corner: &str, columns: &[String]) -> Self {
        Self::headed(std::iter::once(corner.to_owned()).chain(columns.iter().cloned()).collect())
    }

    fn headed(headings: Vec<String>) -> Self {
        Self { headings, dispensable: Vec::new(), rows: Vec::new() }
    }

    /// The columns to leave out, in this order, until the table fits.
    pub(crate) fn dispensable(mut self, headings: &[&'static str]) -> Self {
        self.dispensable = headings.to_vec();
        self
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        self.push(cells.into());
    }

    /// Adds a row: one cell per heading.
    pub(crate) fn push(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.headings.len());
        self.rows.push(cells);
    }

    /// The lines without their headings, as wide as they are.
    pub(crate) fn render_bare(&self, palette: Palette) -> String {
        let text = self.render(palette, None);
        text.split_once('\n').map_or(String::new(), |(_, rows)| rows.to_owned())
    }

    /// The lines of the table, each with its line feed, at most `width` wide
    /// as far as leaving out columns can do it.
    pub(crate) fn render(&self, palette: Palette, width: Option<usize>) -> String {
        let widths: Vec<usize> = (0..self.headings.len())
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells
                    .map(|cell| cell.text.chars().count())
                    .chain([self.headings[column].chars().count()])
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut shown: Vec<usize> = (0..self.headings.len()).collect();
        for heading in &self.dispensable {
            let total: usize = shown.iter().map(|column| widths[*column] + GAP).sum();
            if width.is_none_or(|width| total <= width + GAP) {
                break;
            }
            shown.retain(|column| self.headings[*column] != *heading);
        }

        let mut text = String::new();
        let headings: Vec<Cell> =
            self.headings.iter().map(|heading| Cell::new(heading, Tone::Faint)).collect();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let mut blank = 0;
            for column in &shown {
                let Some(cell) = row.get(*column) else { continue };
                if !cell.text.is_empty() {
                    text.extend(std::iter::repeat_n(' ', blank));
                    text.push_str(&palette.paint(cell.tone, &cell.text));
                    blank = 0;
                }
                blank += widths[*column] + GAP - cell.text.chars().count();
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NAME", "ADDRESS", "NOTE"]).dispensable(&["NOTE", "ADDRESS"]);
        table.row(["n1".into(), "10.77.1.1".into(), "the first one".into()]);
        table.row(["grün".into(), Cell::new("-", Tone::Faint), "".into()]);
        table
    }

    #[test]
    fn columns_are_as_wide_as_their_content_and_lines_end_with_it() {
        assert_eq!(
            table().render(Palette::PLAIN, None),
            "NAME  ADDRESS    NOTE\nn1    10.77.1.1  the first one\ngrün  -\n"
        );
    }

    #[test]
    fn a_narrow_screen_loses_the_dispensable_columns_in_their_order() {
        assert_eq!(
            table().render(Palette::PLAIN, Some(30)).lines().next(),
            Some("NAME  ADDRESS    NOTE")
        );
        assert_eq!(table().render(Palette::PLAIN, Some(29)).lines().next(), Some("NAME  ADDRESS"));
        assert_eq!(table().render(Palette::PLAIN, Some(3)), "NAME\nn1\ngrün\n");
    }

    #[test]
    fn colours_do_not_move_the_columns() {
        let coloured = table().render(Palette::COLOURED, None);
        let plain: String = strip(&coloured);
        assert_ne!(coloured, plain);
        assert_eq!(plain, table().render(Palette::PLAIN, None));
    }

    fn strip(text: &str) -> String {
        let mut plain = String::new();
        let mut parts = text.split('\u{1b}');
        plain.push_str(parts.next().unwrap_or_default());
        for part in parts {
            plain.push_str(part.split_once('m').map_or("", |(_, rest)| rest));
        }
        plain
    }
}
