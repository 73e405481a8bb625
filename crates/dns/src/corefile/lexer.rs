//! Tokens: words between white space, or in quotes; `#` begins a comment at a word's start.

use super::{CorefileError, Position};

/// A word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) at: Position,
    /// Whether it was in quotes, so that braces in it are no braces.
    pub(super) is_quoted: bool,
}

impl Token {
    pub(super) fn is(&self, text: &str) -> bool {
        !self.is_quoted && self.text == text
    }
}

/// The longest value that a variable may put in the place of its name, in bytes.
const LONGEST_VALUE: usize = 4096;

/// The tokens of a text, with variables replaced.
pub(super) fn tokens(
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Token>, CorefileError> {
    let mut lexer = Lexer { chars: text.chars().peekable(), at: Position { line: 1, column: 1 } };
    let mut tokens = Vec::new();
    while let Some(mut token) = lexer.next()? {
        token.text = replaced(&token, variable)?;
        tokens.push(token);
    }
    Ok(tokens)
}

struct Lexer<'a> {
    chars: std::iter::Peekable<std::str::Chars<'a>>,
    at: Position,
}

impl Lexer<'_> {
    fn advance(&mut self) -> Option<char> {
        let c = self.chars.next()?;
        if c == '\n' {
            self.at = Position { line: self.at.line + 1, column: 1 };
        } else {
            self.at.column += 1;
        }
        Some(c)
    }

    fn next(&mut self) -> Result<Option<Token>, CorefileError> {
        loop {
            match self.chars.peek() {
                None => return Ok(None),
                Some('#') => {
                    while self.chars.peek().is_some_and(|c| *c != '\n') {
                        self.advance();
                    }
                }
                Some('"') => return self.quoted().map(Some),
                // A byte order mark is white space here.
                Some(c) if c.is_whitespace() || *c == '\u{feff}' => drop(self.advance()),
                Some(_) => return Ok(Some(self.word())),
            }
        }
    }

    fn word(&mut self) -> Token {
        let (at, mut text) = (self.at, String::new());
        while let Some(c) = self.chars.next_if(|c| !c.is_whitespace()) {
            self.at.column += 1;
            text.push(c);
        }
        Token { text, at, is_quoted: false }
    }

    fn quoted(&mut self) -> Result<Token, CorefileError> {
        let (at, mut text) = (self.at, String::new());
        self.advance();
        loop {
            match self.advance() {
                None => return Err(CorefileError::new(at, "this quote is never closed")),
                Some('"') => return Ok(Token { text, at, is_quoted: true }),
                Some('\\') if self.chars.peek() == Some(&'"') => {
                    text.extend(self.advance());
                }
                Some(c) => text.push(c),
            }
        }
    }
}

/// Replaces `{$NAME}` and `{%NAME%}`; an unknown variable is empty, as upstream has it.
fn replaced(
    token: &Token,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<String, CorefileError> {
    let mut text = token.text.clone();
    for (open, close) in [("{$", "}"), ("{%", "%}")] {
        let mut out = String::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once(open) {
            let Some((name, after)) = after.split_once(close) else { break };
            out.push_str(before);
            let value = variable(name).unwrap_or_default();
            if out.len() + value.len() > LONGEST_VALUE {
                return Err(CorefileError::new(
                    token.at,
                    format!("the value of {name} is too long"),
                ));
            }
            out.push_str(&value);
            rest = after;
        }
        out.push_str(rest);
        text = out;
    }
    Ok(text)
}
