//! The contract, a check per sentence. Each sends under topics of its own and looks at the rows.

use anyhow::{Context as _, bail, ensure};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::claims;
use super::sender::{Sender, Sent, Transaction, Wish};
use super::tables::{Row, Tables};
use crate::command::database::{AnyOutbox, with_outbox};

/// Longest names, in bytes: part of the contract.
const NAME_BYTES_MAX: usize = 255;

/// What a trial works with.
pub(super) struct Trial {
    pub(super) outbox: AnyOutbox,
    pub(super) tables: Tables,
    pub(super) sender: Sender,
    /// Every topic and consumer of this trial begins so.
    pub(super) prefix: String,
}

/// The sentences, in the order in which they are checked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Check {
    Defaults,
    Everything,
    Payloads,
    RolledBack,
    Order,
    Dedupe,
    DedupeScope,
    DedupeRolledBack,
    Delay,
    Expiry,
    Cancel,
    Lengths,
    NoTopic,
    RefusedWhole,
    Claims,
}

impl Check {
    pub(super) const ALL: [Self; 15] = [
        Self::Defaults,
        Self::Everything,
        Self::Payloads,
        Self::RolledBack,
        Self::Order,
        Self::Dedupe,
        Self::DedupeScope,
        Self::DedupeRolledBack,
        Self::Delay,
        Self::Expiry,
        Self::Cancel,
        Self::Lengths,
        Self::NoTopic,
        Self::RefusedWhole,
        Self::Claims,
    ];

    pub(super) const fn sentence(self) -> &'static str {
        match self {
            Self::Defaults => "what is not said of a message has its default",
            Self::Everything => "what is said of a message is in its row",
            Self::Payloads => "a payload is any JSON and stays what it is",
            Self::RolledBack => "a transaction that is rolled back leaves nothing",
            Self::Order => "messages of one key are in the order in which they were sent",
            Self::Dedupe => "a repeated dedupe id adds nothing, answers null and spoils nothing",
            Self::DedupeScope => "a dedupe id is one of its source and topic",
            Self::DedupeRolledBack => "a dedupe id that was rolled back is free",
            Self::Delay => "a delay is counted from the call, by the database's clock",
            Self::Expiry => "an expiry is counted from the call, by the database's clock",
            Self::Cancel => "waiting messages are withdrawn by their cancel key",
            Self::Lengths => "names have at most 255 bytes",
            Self::NoTopic => "a message has a topic",
            Self::RefusedWhole => "a message that is refused takes its transaction with it",
            Self::Claims => "a message is claimed once for a consumer, if the transaction commits",
        }
    }
}

impl Trial {
    /// Checks one sentence; the error says what was found instead.
    pub(super) async fn run(&mut self, check: Check) -> anyhow::Result<()> {
        match check {
            Check::Defaults => self.defaults().await,
            Check::Everything => self.everything().await,
            Check::Payloads => self.payloads().await,
            Check::RolledBack => self.rolled_back().await,
            Check::Order => self.order().await,
            Check::Dedupe => self.dedupe().await,
            Check::DedupeScope => self.dedupe_scope().await,
            Check::DedupeRolledBack => self.dedupe_rolled_back().await,
            Check::Delay => self.delay().await,
            Check::Expiry => self.expiry().await,
            Check::Cancel => self.cancel().await,
            Check::Lengths => self.lengths().await,
            Check::NoTopic => self.no_topic().await,
            Check::RefusedWhole => self.refused_whole().await,
            Check::Claims => {
                claims::check(&mut self.tables, &format!("{}consumer", self.prefix)).await
            }
        }
    }

    async fn defaults(&mut self) -> anyhow::Result<()> {
        let before = self.tables.now_us().await?;
        let (id, row) = self.send_one(self.wish("defaults")).await?;
        let after = self.tables.now_us().await?;

        let parsed = Uuid::parse_str(&row.id).context("the id is no UUID")?;
        is("id", &row.id, &parsed.to_string())?;
        is("the answer", &id, &row.id)?;
        is("source", &row.source, &String::new())?;
        is("key", &row.key, &None)?;
        is("dedupe_id", &row.dedupe_id, &None)?;
        is("cancel_key", &row.cancel_key, &None)?;
        is("content_type", &row.content_type, &"application/json".to_owned())?;
        is("headers", &row.headers()?, &json!({}))?;
        is("expires_at", &row.expires_us, &None)?;
        is("state", &row.state, &0)?;
        is("attempts", &row.attempts, &0)?;
        is("lease", &row.lease, &0)?;
        is("lease_until", &row.leased, &0)?;
        is("finished_at", &row.finished, &0)?;
        is("last_error", &row.last_error, &None)?;
        within("created_at", row.created_us, before, after)?;
        within("not_before", row.not_before_us, before, after)?;
        within("next_attempt", row.next_attempt_us, before, after)
    }

    async fn everything(&mut self) -> anyhow::Result<()> {
        let headers = json!({"trace": "a \"quoted\" \\ ü 😀", "empty": ""});
        let (_, row) = self
            .send_one(Wish {
                source: Some("shop 'ü'".to_owned()),
                key: Some("customer \\ 😀".to_owned()),
                dedupe_id: Some("order-7".to_owned()),
                cancel_key: Some("remind:7".to_owned()),
                headers: headers.as_object().cloned(),
                ..self.wish("everything")
            })
            .await?;

        is("source", &row.source, &"shop 'ü'".to_owned())?;
        is("key", &row.key.as_deref(), &Some("customer \\ 😀"))?;
        is("dedupe_id", &row.dedupe_id.as_deref(), &Some("order-7"))?;
        is("cancel_key", &row.cancel_key.as_deref(), &Some("remind:7"))?;
        is("headers", &row.headers()?, &headers)?;
        let mut empty = self.wish("no headers");
        empty.headers = Some(Map::new());
        is("headers", &self.send_one(empty).await?.1.headers()?, &json!({}))
    }

    async fn payloads(&mut self) -> anyhow::Result<()> {
        let long = "x".repeat(1_000_000);
        for (number, payload) in [
            json!({"id": 7, "lines": [{"text": "'; drop table posthouse_outbox; --"}]}),
            json!([1, 2.5, -3, true, null]),
            json!("a \"text\" \\ ü 😀 \n"),
            json!(0),
            Value::Null,
            json!({ "long": long }),
        ]
        .into_iter()
        .enumerate()
        {
            let wish = Wish { payload: payload.clone(), ..self.wish(&format!("payload {number}")) };
            let (_, row) = self.send_one(wish).await?;
            ensure!(row.payload()? == payload, "payload {number} is {:.100}", row.payload()?);
        }
        Ok(())
    }

    async fn rolled_back(&mut self) -> anyhow::Result<()> {
        let wish = self.wish("rolled back");
        let topic = wish.topic.clone();
        let messages = vec![wish, Wish { key: Some("k".to_owned()), ..self.wish("rolled back") }];
        let sent = self.sender.send(&Transaction { messages, commit: false }).await?;

        sent.map_err(refused)?;
        is("rows of it", &self.tables.rows(&topic).await?.len(), &0)
    }

    async fn order(&mut self) -> anyhow::Result<()> {
        let mut ids = Vec::new();
        for _ in 0..3 {
            let wish = || Wish { key: Some("k".to_owned()), ..self.wish("order") };
            let messages = vec![wish(), wish(), wish()];
            ids.extend(self.commit(messages).await?.map_err(refused)?);
        }
        let topic = self.wish("order").topic;
        let rows = self.tables.rows(&topic).await?;
        let found: Vec<_> = rows.into_iter().map(|row| Some(row.id)).collect();
        is("ids by seq", &found, &ids)
    }

    async fn dedupe(&mut self) -> anyhow::Result<()> {
        let wish = |trial: &Self| Wish { dedupe_id: Some("7".to_owned()), ..trial.wish("dedupe") };
        let first = self.commit(vec![wish(self)]).await?.map_err(refused)?;
        ensure!(matches!(first.as_slice(), [Some(_)]), "the first is answered with {first:?}");
        let messages = vec![wish(self), self.wish("beside dedupe")];
        let again = self.commit(messages).await?.map_err(refused)?;

        is("the answer", &again.first(), &Some(&None))?;
        is("rows of it", &self.tables.rows(&wish(self).topic).await?.len(), &1)?;
        let beside = self.wish("beside dedupe").topic;
        is("rows of the message behind it", &self.tables.rows(&beside).await?.len(), &1)
    }

    async fn dedupe_scope(&mut self) -> anyhow::Result<()> {
        let mut messages = vec![self.wish("scope"), self.wish("scope"), self.wish("other scope")];
        for (message, source) in messages.iter_mut().zip(["a", "b", "a"]) {
            message.source = Some(source.to_owned());
            message.dedupe_id = Some("7".to_owned());
        }
        let ids = self.commit(messages).await?.map_err(refused)?;

        ensure!(
            ids.iter().all(Option::is_some),
            "another source or topic is answered with {ids:?}"
        );
        let upper = [("d", "ü"), ("D", "ü"), ("d", "Ü")];
        let messages = upper.map(|(dedupe, source)| Wish {
            source: Some(source.to_owned()),
            dedupe_id: Some(dedupe.to_owned()),
            ..self.wish("scope")
        });
        let ids = self.commit(messages.into()).await?.map_err(refused)?;
        ensure!(ids.iter().all(Option::is_some), "large and small letters are the same: {ids:?}");
        Ok(())
    }

    async fn dedupe_rolled_back(&mut self) -> anyhow::Result<()> {
        let wish = |trial: &Self| Wish { dedupe_id: Some("7".to_owned()), ..trial.wish("freed") };
        let messages = vec![wish(self)];
        self.sender.send(&Transaction { messages, commit: false }).await?.map_err(refused)?;

        self.send_one(wish(self)).await.map(drop)
    }

    async fn delay(&mut self) -> anyhow::Result<()> {
        let before = self.tables.now_us().await?;
        let (_, row) = self.send_one(Wish { delay: Some(3600), ..self.wish("delay") }).await?;
        let after = self.tables.now_us().await?;

        let hour = 3_600_000_000;
        within("created_at", row.created_us, before, after)?;
        within("not_before", row.not_before_us, before + hour, after + hour)?;
        is(
            "next_attempt, which is not_before until the first attempt",
            &row.next_attempt_us,
            &row.not_before_us,
        )
    }

    async fn expiry(&mut self) -> anyhow::Result<()> {
        let before = self.tables.now_us().await?;
        let (_, row) = self.send_one(Wish { expires: Some(600), ..self.wish("expiry") }).await?;
        let after = self.tables.now_us().await?;

        let minutes = 600_000_000;
        within("next_attempt", row.next_attempt_us, before, after)?;
        let expires = row.expires_us.context("expires_at is null")?;
        within("expires_at", expires, before + minutes, after + minutes)
    }

    async fn cancel(&mut self) -> anyhow::Result<()> {
        let key = format!("{}cancel", self.prefix);
        let wish = Wish { cancel_key: Some(key.clone()), ..self.wish("cancel") };
        let (_, row) = self.send_one(wish).await?;
        let withdrawn = with_outbox!(&self.outbox, outbox => {
            let mut transaction = outbox.begin().await?;
            let withdrawn = outbox.cancel(&mut transaction, &key).await?;
            transaction.commit().await?;
            withdrawn
        });

        is("rows that were withdrawn", &withdrawn, &1)?;
        let rows = self.tables.rows(&row.topic).await?;
        is("state", &rows.first().map(|row| row.state), &Some(4))
    }

    async fn lengths(&mut self) -> anyhow::Result<()> {
        let fields: [fn(&mut Wish, String); 4] = [
            |wish, name| wish.source = Some(name),
            |wish, name| wish.key = Some(name),
            |wish, name| wish.dedupe_id = Some(name),
            |wish, name| wish.cancel_key = Some(name),
        ];
        let longest = "ü".repeat(NAME_BYTES_MAX / 2) + "x";
        let mut wish = self.wish("lengths");
        fields.iter().for_each(|set| set(&mut wish, longest.clone()));
        let rest = NAME_BYTES_MAX.saturating_sub(wish.topic.len());
        wish.topic.push_str(&"x".repeat(rest));
        let (_, row) = self.send_one(wish).await.context("255 bytes are refused")?;
        is("source", &row.source, &longest)?;
        is("key", &row.key, &Some(longest.clone()))?;
        for name in [longest + "x", "x".repeat(NAME_BYTES_MAX + 1)] {
            for (field, set) in ["source", "key", "dedupe_id", "cancel_key"].iter().zip(fields) {
                let mut wish = self.wish(&format!("long {field}"));
                set(&mut wish, name.clone());
                self.is_refused(vec![wish], &format!("{field} of 256 bytes")).await?;
            }
        }
        let mut wish = self.wish("lengths");
        wish.topic.push_str(&"x".repeat(NAME_BYTES_MAX + 1 - wish.topic.len()));
        self.is_refused(vec![wish], "topic of 256 bytes").await
    }

    async fn no_topic(&mut self) -> anyhow::Result<()> {
        let wish = Wish { topic: String::new(), ..self.wish("") };
        self.is_refused(vec![wish], "empty topic").await
    }

    async fn refused_whole(&mut self) -> anyhow::Result<()> {
        let good = self.wish("refused whole");
        let topic = good.topic.clone();
        let bad = Wish { topic: String::new(), ..self.wish("") };
        self.is_refused(vec![good, bad], "empty topic behind a good message").await?;

        is("rows of its transaction", &self.tables.rows(&topic).await?.len(), &0)
    }

    fn wish(&self, name: &str) -> Wish {
        let topic = format!("{}{name}", self.prefix);
        Wish { topic, payload: json!({ "check": name }), ..Wish::default() }
    }

    async fn commit(&mut self, messages: Vec<Wish>) -> anyhow::Result<Sent> {
        self.sender.send(&Transaction { messages, commit: true }).await
    }

    /// Sends one message that is to be there afterwards, alone in its topic; answers what was answered and its row.
    async fn send_one(&mut self, wish: Wish) -> anyhow::Result<(String, Row)> {
        let topic = wish.topic.clone();
        let mut ids = self.commit(vec![wish]).await?.map_err(refused)?;
        let id = ids.pop().flatten().context("the answer is null instead of an id")?;
        let mut rows = self.tables.rows(&topic).await?;
        ensure!(rows.len() == 1, "{} rows instead of one", rows.len());
        let row = rows.pop().context("a row")?;
        Ok((id, row))
    }

    async fn is_refused(&mut self, messages: Vec<Wish>, what: &str) -> anyhow::Result<()> {
        match self.commit(messages).await? {
            Ok(_) => bail!("{what} is taken"),
            Err(_) => Ok(()),
        }
    }
}

fn refused(error: String) -> anyhow::Error {
    anyhow::Error::msg(error).context("refused")
}

fn is<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, wanted: &T) -> anyhow::Result<()> {
    ensure!(found == wanted, "{what} is {found:?} instead of {wanted:?}");
    Ok(())
}

fn within(what: &str, found: i64, from: i64, to: i64) -> anyhow::Result<()> {
    ensure!(
        (from..=to).contains(&found),
        "{what} is {found} µs instead of {from} to {to} by the database's clock"
    );
    Ok(())
}
