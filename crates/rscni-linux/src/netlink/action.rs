//! The description of a request, for error messages.

use super::Netlink;
use crate::Error;

/// The description of a request, for error messages.
///
/// Links are stored by index and not as text, since the text contains names chosen by users. Their
/// names are looked up only if there is an error to report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Action(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Link(u32),
}

impl Action {
    /// Appends text.
    #[must_use]
    pub(super) fn text(mut self, text: impl Into<String>) -> Self {
        self.0.push(Part::Text(text.into()));
        self
    }

    /// Appends the name of a link.
    #[must_use]
    pub(super) fn link(mut self, index: u32) -> Self {
        self.0.push(Part::Link(index));
        self
    }

    /// Appends another action, after a comma.
    #[must_use]
    pub(super) fn and(mut self, other: Self) -> Self {
        if !self.0.is_empty() {
            self.0.push(Part::Text(", ".to_owned()));
        }
        self.0.extend(other.0);
        self
    }

    /// Returns the text, with the names of links from `name`.
    fn render_with(&self, mut name: impl FnMut(u32) -> Option<String>) -> String {
        let render = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Link(index) => name(*index).unwrap_or_else(|| format!("interface {index}")),
        };
        self.0.iter().map(render).collect()
    }

    /// Returns the text, with the indexes of links.
    pub(super) fn render_indexes(&self) -> String {
        self.render_with(|_| None)
    }
}

impl<T: Into<String>> From<T> for Action {
    fn from(text: T) -> Self {
        Self::default().text(text)
    }
}

impl Netlink {
    /// Returns the text of an action, with the names of its links.
    pub(super) fn render(&mut self, action: &Action) -> String {
        action.render_with(|index| self.link_by_index(index).ok().map(|link| link.name))
    }

    /// Replaces indexes of links in an error by their names.
    pub(super) fn with_link_names(&mut self, error: Error, action: &Action) -> Error {
        match error {
            Error::Netlink { errno, extack, .. } => {
                Error::Netlink { action: self.render(action), errno, extack }
            }
            error => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_operands_are_rendered_by_name() {
        let action = Action::from("rename ").link(5).text(" to web#5 and #6, ").link(7);
        let name = |index| (index == 5).then(|| "a#7".to_owned());
        assert_eq!(action.render_with(name), "rename a#7 to web#5 and #6, interface 7");
        assert_eq!(action.render_indexes(), "rename interface 5 to web#5 and #6, interface 7");
    }

    #[test]
    fn actions_are_joined_by_commas() {
        let set = |what: &str| Action::from(format!("set {what} of ")).link(5);
        let both = Action::default().and(set("this")).and(set("that"));
        assert_eq!(both.render_indexes(), "set this of interface 5, set that of interface 5");
    }
}
