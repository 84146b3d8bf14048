//! Listing: a service shows a page at a time, with a link to the next one.

use hyper::Method;
use serde::Deserialize;

use super::{Answer, Connection};

/// Most items that a service shows at once, where its operator has not said otherwise.
const PAGE_MAX: u64 = 20;

/// Where another page is.
#[derive(Debug, Deserialize)]
pub(crate) struct Link {
    rel: String,
    href: String,
}

/// Asks for page after page until there were enough items.
pub(crate) struct Pages {
    /// Path without a query.
    path: String,
    /// Query of the next page; `None` after the last.
    query: Option<String>,
    /// Items still wanted.
    left: u64,
}

impl Pages {
    /// Pages below `path` of at most `max` items in all; `parameters` are in escaped form.
    pub(crate) fn new(path: String, parameters: &[(&str, String)], max: Option<u64>) -> Self {
        let left = max.unwrap_or(u64::MAX);
        let mut query = format!("limit={}", left.min(PAGE_MAX));
        for (name, value) in parameters {
            query.push_str(&format!("&{name}={value}"));
        }
        Self { path, query: (left > 0).then_some(query), left }
    }

    /// The next page; `None` after the last.
    ///
    /// # Errors
    ///
    /// As [`Connection::ask`].
    pub(crate) async fn next(
        &mut self,
        connection: &mut Connection,
    ) -> anyhow::Result<Option<Answer>> {
        let Some(query) = self.query.take() else { return Ok(None) };
        Ok(Some(connection.ask(Method::GET, &format!("{}?{query}", self.path)).await?))
    }

    /// How many of `shown` items are wanted; goes on where `links` say if that is not enough.
    pub(crate) fn turn(&mut self, shown: usize, links: &[Link]) -> usize {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(shown);
        self.left -= wanted as u64;
        let next = links.iter().find(|link| link.rel == "next");
        // The query alone: a service behind a prefix does not know its own path.
        let query = next.and_then(|link| link.href.split_once('?')).map(|(_, query)| query);
        self.query = query.filter(|_| shown > 0 && self.left > 0).map(str::to_owned);
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(href: &str) -> [Link; 1] {
        [Link { rel: "next".to_owned(), href: href.to_owned() }]
    }

    #[test]
    fn pages_follow_the_link_until_there_is_enough_or_nothing() {
        let mut pages =
            Pages::new("/v2/queues".to_owned(), &[("detailed", "true".to_owned())], Some(25));
        assert_eq!(pages.query.as_deref(), Some("limit=20&detailed=true"));

        assert_eq!(pages.turn(20, &link("/v2/queues?limit=20&marker=t")), 20);
        assert_eq!(pages.query.as_deref(), Some("limit=20&marker=t"));
        assert_eq!(pages.turn(20, &link("/v2/queues?marker=z")), 5);
        assert_eq!(pages.query, None);
    }

    #[test]
    fn an_empty_page_is_the_last_one_whatever_it_links_to() {
        let mut pages = Pages::new("/v2/queues".to_owned(), &[], None);

        assert_eq!(pages.turn(0, &link("/v2/queues?marker=z")), 0);
        assert_eq!(pages.query, None);
    }
}
