//! A request's query, decoded once, with the mistakes that a client can make in it.

/// What is wrong with a query; the text of a 400 answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadQuery(pub(super) String);

/// Names and values, in the request's order.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Query {
        Query(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// A switch in any of the spellings that Go's `strconv.ParseBool` and kubelet take.
    pub(super) fn flag(&self, name: &str) -> bool {
        matches!(self.first(name), Some("1" | "t" | "T" | "true" | "TRUE" | "True"))
    }

    /// A number that is not negative.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, BadQuery> {
        let Some(text) = self.first(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        let number = text.parse();
        number.map(Some).map_err(|_| BadQuery(format!("invalid value for {name}: {text:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_keep_their_order_and_their_odd_characters() {
        let query = Query::parse("command=sh&command=-c&command=echo+%22a%26b%22%2B&tty=1");
        let command: Vec<_> = query.all("command").collect();
        assert_eq!(command, ["sh", "-c", r#"echo "a&b"+"#]);
        assert!(query.flag("tty") && !query.flag("input"));
    }

    #[test]
    fn a_number_that_is_none_is_told_by_name() {
        let query = Query::parse("tailLines=-1&limitBytes=");
        assert_eq!(query.number("limitBytes"), Ok(None));
        let BadQuery(message) = query.number("tailLines").unwrap_err();
        assert!(message.contains("tailLines"), "{message}");
    }
}
