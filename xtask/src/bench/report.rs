//! The table: our figure, its ratio beside each peer, the floors and whether they are reached.

use serde_json::{Value, json};

use super::broker::Peer;
use super::rows::{Figure, Floor};
use super::tool::{figure, median};

/// All answers of one peer to one row.
#[derive(Debug)]
pub(crate) struct Answers {
    /// Who answered.
    pub(crate) peer: Peer,
    /// The tool's answers, one a run.
    pub(crate) runs: Vec<Value>,
}

/// A row that was measured.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) name: String,
    pub(crate) what: String,
    pub(crate) figure: Figure,
    pub(crate) floors: Vec<Floor>,
    /// Where the CPU per message stands in the answer.
    pub(crate) cpu_at: &'static str,
    pub(crate) answers: Vec<Answers>,
}

/// Whether the floors are reached; `None` where a peer is missing.
pub(crate) type Verdict = Option<bool>;

impl Measured {
    fn figures(&self, peer: Peer, at: &str) -> Vec<f64> {
        let of = self.answers.iter().filter(|answers| answers.peer == peer);
        of.flat_map(|answers| &answers.runs).filter_map(|run| figure(run, at)).collect()
    }

    fn middle(&self, peer: Peer, at: &str) -> Option<f64> {
        median(&self.figures(peer, at))
    }

    fn ratio(&self, peer: Peer) -> Option<f64> {
        let (ours, theirs) =
            (self.middle(Peer::Ours, self.figure.at)?, self.middle(peer, self.figure.at)?);
        (theirs > 0.0).then(|| ours / theirs)
    }

    /// What a floor asks, what was reached, and the verdict.
    fn judge(&self, floor: Floor) -> (String, Verdict) {
        let shown =
            |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.2}"));
        match floor {
            Floor::AtLeast(peer, least) => {
                let ratio = self.ratio(peer);
                let text = format!("{} × {} (≥ {least})", shown(ratio), peer.name());
                (text, ratio.map(|ratio| ratio >= least))
            }
            Floor::AtMost(peer, most) => {
                let ratio = self.ratio(peer);
                let text = format!("{} × {} (≤ {most})", shown(ratio), peer.name());
                (text, ratio.map(|ratio| ratio <= most))
            }
            Floor::Limit(most) => {
                let ours = self.middle(Peer::Ours, self.figure.at);
                (format!("≤ {most} {}", self.figure.unit), ours.map(|ours| ours <= most))
            }
            Floor::ConsumedOfPublished(least) => {
                let consumed = self.middle(Peer::Ours, "/consumed_s");
                let part = consumed
                    .zip(self.middle(Peer::Ours, "/published_s"))
                    .map(|(consumed, published)| consumed / published);
                (
                    format!("consumed {} of published (≥ {least})", shown(part)),
                    part.map(|part| part >= least),
                )
            }
        }
    }

    /// False if a floor is missed.
    pub(crate) fn verdict(&self) -> Verdict {
        let verdicts: Vec<Verdict> = self.floors.iter().map(|floor| self.judge(*floor).1).collect();
        if verdicts.contains(&Some(false)) {
            return Some(false);
        }
        (!verdicts.contains(&None)).then_some(true)
    }

    fn line(&self) -> String {
        let figure = |peer: Peer| {
            let mut all = self.figures(peer, self.figure.at);
            all.sort_by(f64::total_cmp);
            match (median(&all), all.first(), all.last()) {
                (Some(middle), Some(low), Some(high)) if all.len() > 1 => {
                    format!("{} [{}–{}]", short(middle), short(*low), short(*high))
                }
                (Some(middle), ..) => short(middle),
                (None, ..) => "–".to_owned(),
            }
        };
        let null = if self.answers.iter().any(|answers| answers.peer == Peer::NullJournal) {
            Peer::NullJournal
        } else {
            Peer::Null
        };
        let cpu = |peer: Peer| {
            self.middle(peer, self.cpu_at).map_or("–".to_owned(), |cpu| format!("{cpu:.2}"))
        };
        let floors: Vec<String> = self.floors.iter().map(|floor| self.judge(*floor).0).collect();
        let verdict = match self.verdict() {
            Some(true) => "reached",
            Some(false) => "**missed**",
            None => "not judged",
        };
        format!(
            "| {} | {} {} | {} | {} | {} / {} | {} | {verdict} |",
            self.what,
            figure(Peer::Ours),
            self.figure.unit,
            figure(null),
            figure(Peer::Rabbit),
            cpu(Peer::Ours),
            cpu(Peer::Rabbit),
            floors.join("; ")
        )
    }

    fn json(&self) -> Value {
        let answers: serde_json::Map<String, Value> = self
            .answers
            .iter()
            .map(|answers| (answers.peer.name().to_owned(), json!(answers.runs)))
            .collect();
        let peers = self.answers.iter().map(|answers| answers.peer);
        let medians: serde_json::Map<String, Value> = peers
            .map(|peer| (peer.name().to_owned(), json!(self.middle(peer, self.figure.at))))
            .collect();
        json!({
            "row": self.name, "what": self.what, "unit": self.figure.unit, "medians": medians,
            "reached": self.verdict(), "answers": answers,
        })
    }
}

/// The table in Markdown.
pub(crate) fn table(rows: &[Measured]) -> String {
    let mut text = String::from(
        "| row | posthouse [spread] | null, with journal where durable | rabbitmq | CPU µs per message: posthouse / \
         rabbitmq | floors | verdict |\n|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        text.push_str(&row.line());
        text.push('\n');
    }
    text
}

/// Everything, for machines.
pub(crate) fn json(rows: &[Measured], conditions: &[String]) -> Value {
    json!({ "conditions": conditions, "rows": rows.iter().map(Measured::json).collect::<Vec<_>>() })
}

/// Three figures are enough.
fn short(value: f64) -> String {
    match value {
        _ if value >= 999_500.0 => format!("{:.2}M", value / 1e6),
        _ if value >= 9_995.0 => format!("{:.0}k", value / 1e3),
        _ if value >= 999.5 => format!("{:.2}k", value / 1e3),
        _ if value >= 100.0 => format!("{value:.0}"),
        _ => format!("{value:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rows::ROWS;

    fn measured(ours: f64, null: f64, rabbit: f64) -> Measured {
        let row = ROWS.iter().find(|row| row.name == "1k-auto").unwrap();
        let answers = [(Peer::Ours, ours), (Peer::Null, null), (Peer::Rabbit, rabbit)];
        Measured {
            name: row.name.to_owned(),
            what: row.what.to_owned(),
            figure: row.figure,
            floors: row.floors.to_vec(),
            cpu_at: "/broker_cpu_us_per_msg",
            answers: answers
                .map(|(peer, rate)| Answers { peer, runs: vec![json!({ "consumed_s": rate })] })
                .into(),
        }
    }

    #[test]
    fn a_row_is_reached_only_if_every_floor_is() {
        assert_eq!(measured(250.0, 1_000.0, 20.0).verdict(), Some(true));
        assert_eq!(measured(249.0, 1_000.0, 20.0).verdict(), Some(false));
        assert_eq!(measured(250.0, 1_000.0, 23.0).verdict(), Some(false));
        assert_eq!(measured(250.0, 1_000.0, 0.0).verdict(), None);
    }
}
