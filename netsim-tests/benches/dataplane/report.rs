//! The table and the drawing of a run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::contender::Kind;
use crate::crowd::Compared;
use crate::measure::Figures;
use crate::support::median;

type Pick = fn(&Figures) -> f64;

/// A line of the table: what, in which unit, with how many decimals.
struct Line(&'static str, &'static str, usize, Pick);

const LINES: [Line; 8] = [
    Line("TCP, one stream", "Gbit/s", 2, |figures| figures.tcp_one),
    Line("TCP, four streams", "Gbit/s", 2, |figures| figures.tcp_four),
    Line("TCP, both directions at once", "Gbit/s", 2, |figures| figures.tcp_both),
    Line("64 B UDP delivered under overload", "k/s", 0, |figures| figures.delivered),
    Line("64 B UDP at 100 k/s, lost", "%", 3, |figures| figures.paced_loss),
    Line("round trip", "ms", 3, |figures| figures.round_trip),
    Line("CPU of both daemons, one stream", "s/GB", 2, |figures| figures.cpu_per_gb),
    Line("packets out of order, TCP, in any turn", "", 0, |figures| figures.reordered),
];

/// Of which the most is told, as half of the turns may not have any.
const MOST: usize = 7;

/// Those of which a ratio says something, and those of them that had better be
/// small.
const COMPARED: [usize; 6] = [0, 1, 2, 3, 5, 6];
const SMALL: [usize; 2] = [5, 6];

pub(crate) struct Report {
    rounds: u64,
    length: Duration,
    own: Vec<Figures>,
    /// The pairs: epsilon's figures and the rival's.
    pairs: BTreeMap<Kind, Vec<(Figures, Figures)>>,
    versions: Vec<(Kind, String)>,
    crowd: Option<Compared>,
}

fn ratio(pairs: &[(Figures, Figures)], pick: Pick) -> f64 {
    median(&pairs.iter().map(|(own, other)| pick(own) / pick(other)).collect::<Vec<f64>>())
}

/// What the table says of the turns' figures for a line.
fn told(index: usize, figures: &[f64]) -> f64 {
    if index == MOST { figures.iter().copied().fold(0.0, f64::max) } else { median(figures) }
}

impl Report {
    pub(crate) fn new(rounds: u64, length: Duration) -> Self {
        let (own, pairs, versions) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { rounds, length, own, pairs, versions, crowd: None }
    }

    pub(crate) fn add(&mut self, kind: Kind, own: Figures, other: Figures) {
        self.own.push(own);
        self.pairs.entry(kind).or_default().push((own, other));
    }

    pub(crate) fn crowd(&mut self, compared: Compared) {
        self.crowd = Some(compared);
    }

    pub(crate) fn version(&mut self, kind: Kind, version: String) {
        self.versions.push((kind, version));
    }

    fn ratio(&self, kind: Kind, pick: Pick) -> f64 {
        ratio(&self.pairs[&kind], pick)
    }

    /// One peer against a thousand.
    fn crowd_table(&self) -> String {
        let Some(Compared { pairs, resident }) = &self.crowd else { return String::new() };
        let mut table =
            "\n| | unit | 1 peer | 1 000 peers | ratio |\n|---|---|---|---|---|".to_owned();
        for (index, Line(what, unit, decimals, pick)) in LINES.iter().enumerate() {
            let side = |pick: &dyn Fn(&(Figures, Figures)) -> f64| {
                told(index, &pairs.iter().map(pick).collect::<Vec<f64>>())
            };
            let (one, many) = (side(&|pair| pick(&pair.0)), side(&|pair| pick(&pair.1)));
            let _ = write!(table, "\n| {what} | {unit} | {one:.decimals$} | {many:.decimals$} |");
            if COMPARED.contains(&index) {
                let _ = write!(table, " {:.2} |", 1.0 / ratio(pairs, *pick));
            } else {
                table.push_str(" |");
            }
        }
        let [one, many] = resident;
        let _ = writeln!(table, "\n| memory of the daemon | MB | {one:.1} | {many:.1} | |");
        table
    }

    fn table(&self) -> String {
        let mut table = "| | unit | epsilon |".to_owned();
        for kind in self.pairs.keys() {
            let _ = write!(table, " {} | ratio |", kind.name());
        }
        table.push_str("\n|---|---|---|");
        table.push_str(&"---|---|".repeat(self.pairs.len()));
        for (index, Line(what, unit, decimals, pick)) in LINES.iter().enumerate() {
            let own: Vec<f64> = self.own.iter().map(pick).collect();
            let _ = write!(table, "\n| {what} | {unit} | {:.*} |", decimals, told(index, &own));
            for (kind, pairs) in &self.pairs {
                let theirs: Vec<f64> = pairs.iter().map(|(_, other)| pick(other)).collect();
                let _ = write!(table, " {:.*} |", decimals, told(index, &theirs));
                if COMPARED.contains(&index) {
                    let _ = write!(table, " {:.2} |", self.ratio(*kind, *pick));
                } else {
                    table.push_str(" |");
                }
            }
        }
        table.push('\n');
        table
    }

    fn conditions(&self) -> String {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
        let model = model.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown processor");
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let mut text = format!(
            "{cores} cores of {model}, Linux {}; turns of {} s for each figure, medians of the \
             turns and of the ratios of {} adjacent pairs.\n",
            kernel.trim(),
            self.length.as_secs(),
            self.rounds
        );
        for (kind, version) in &self.versions {
            let _ = writeln!(text, "* {}: {version}", kind.name());
        }
        text
    }

    /// Bars of epsilon's figure as a multiple of each rival's.
    fn drawing(&self) -> String {
        const COLOURS: [&str; 4] = ["#000", "#2a6fbb", "#d9822b", "#3c9a5f"];
        const LEFT: f64 = 290.0;
        const WIDTH: f64 = 390.0;
        let bars = COMPARED.len() * self.pairs.len();
        let height = 40 + bars * 18 + COMPARED.len() * 12 + 20;
        let widest = COMPARED
            .iter()
            .flat_map(|index| self.pairs.keys().map(|kind| self.ratio(*kind, LINES[*index].3)))
            .fold(1.0, f64::max);
        let scale = WIDTH / widest;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"760\" height=\"{height}\" fill=\"#fff\"/>\n"
        );
        for (index, kind) in self.pairs.keys().enumerate() {
            let x = LEFT + index as f64 * 130.0;
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"10\" width=\"12\" height=\"12\" fill=\"{}\"/>\
                 <text x=\"{}\" y=\"20\">{}</text>",
                COLOURS[*kind as usize],
                x + 16.0,
                kind.name()
            );
        }
        svg.push_str("<text x=\"10\" y=\"20\">epsilon as a multiple of</text>\n");
        let mut y = 40;
        for index in COMPARED {
            let Line(what, ..) = LINES[index];
            let less = if SMALL.contains(&index) { " (less is better)" } else { "" };
            let _ = writeln!(svg, "<text x=\"10\" y=\"{}\">{what}{less}</text>", y + 12);
            for kind in self.pairs.keys() {
                let ratio = self.ratio(*kind, LINES[index].3);
                let _ = writeln!(
                    svg,
                    "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"14\" fill=\"{}\"/>\
                     <text x=\"{:.1}\" y=\"{}\">{ratio:.2}</text>",
                    ratio * scale,
                    COLOURS[*kind as usize],
                    LEFT + ratio * scale + 5.0,
                    y + 12
                );
                y += 18;
            }
            y += 12;
        }
        let one = LEFT + scale;
        let _ = writeln!(
            svg,
            "<line x1=\"{one:.1}\" y1=\"32\" x2=\"{one:.1}\" y2=\"{}\" stroke=\"#888\" \
             stroke-dasharray=\"3 3\"/>\n</svg>",
            height - 10
        );
        svg
    }

    pub(crate) fn write(&self, directory: &Path) {
        let table = if self.pairs.is_empty() { String::new() } else { self.table() };
        let text = format!("{table}{}\n{}", self.crowd_table(), self.conditions());
        print!("{text}");
        std::fs::create_dir_all(directory).expect("directory");
        std::fs::write(directory.join("dataplane.md"), text).expect("table");
        if !self.pairs.is_empty() {
            std::fs::write(directory.join("dataplane.svg"), self.drawing()).expect("drawing");
        }
        println!("in {}", directory.display());
    }
}
