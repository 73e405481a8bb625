//! Server blocks of directives, each with its arguments and its own block.
//!
//! ```text
//!   key, key {                    (snippet) {
//!       directive argument {          directive
//!           option argument       }
//!       }
//!       import snippet
//!   }
//! ```

use std::collections::HashMap;

use super::lexer::Token;
use super::{CorefileError, Position};

/// A line in a server block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directive {
    pub(super) name: Token,
    pub(super) arguments: Vec<Token>,
    /// The lines of its block.
    pub(super) options: Vec<(Token, Vec<Token>)>,
}

/// A server block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) keys: Vec<Token>,
    pub(super) directives: Vec<Directive>,
}

/// How many directives a file may have with its imports.
const MOST_DIRECTIVES: usize = 10_000;
/// How many server blocks.
const MOST_BLOCKS: usize = 1_000;

/// Puts tokens into blocks.
pub(super) fn blocks(tokens: Vec<Token>) -> Result<Vec<Block>, CorefileError> {
    let mut reader = Reader { tokens: tokens.into_iter().peekable(), end: Position::default() };
    let mut snippets: HashMap<String, Vec<Directive>> = HashMap::new();
    let mut blocks = Vec::new();
    let mut count = 0;
    while reader.tokens.peek().is_some() {
        let keys = reader.keys()?;
        let directives = imported(reader.directives(&keys)?, &snippets)?;
        count += directives.len();
        let first = &keys[0];
        if count > MOST_DIRECTIVES || blocks.len() >= MOST_BLOCKS {
            return Err(CorefileError::new(first.at, "the file has too many lines"));
        }
        let snippet = first.text.strip_prefix('(').and_then(|name| name.strip_suffix(')'));
        match snippet.filter(|_| keys.len() == 1) {
            Some(name) => {
                if snippets.insert(name.to_owned(), directives).is_some() {
                    let fault = format!("the snippet {name:?} is there already");
                    return Err(CorefileError::new(first.at, fault));
                }
            }
            None => blocks.push(Block { keys, directives }),
        }
    }
    Ok(blocks)
}

/// Puts snippets in the place of their imports.
fn imported(
    directives: Vec<Directive>,
    snippets: &HashMap<String, Vec<Directive>>,
) -> Result<Vec<Directive>, CorefileError> {
    let mut all = Vec::new();
    for directive in directives {
        if !directive.name.is("import") {
            all.push(directive);
            continue;
        }
        let [name] = &directive.arguments[..] else {
            let fault = "import takes one snippet; its arguments are not supported";
            return Err(CorefileError::new(directive.name.at, fault));
        };
        let Some(snippet) = snippets.get(&name.text) else {
            let fault = format!(
                "there is no snippet {:?} above; import of files is not supported",
                name.text
            );
            return Err(CorefileError::new(name.at, fault));
        };
        all.extend(snippet.iter().cloned());
        if all.len() > MOST_DIRECTIVES {
            return Err(CorefileError::new(name.at, "the file has too many lines"));
        }
    }
    Ok(all)
}

struct Reader {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    /// Where the last token stood.
    end: Position,
}

impl Reader {
    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.next()?;
        self.end = token.at;
        Some(token)
    }

    fn next_on(&mut self, line: usize) -> Option<Token> {
        let token = self.tokens.next_if(|token| token.at.line == line && !token.is("}"))?;
        self.end = token.at;
        Some(token)
    }

    /// What stands before a block, up to its brace. At least one.
    fn keys(&mut self) -> Result<Vec<Token>, CorefileError> {
        let mut keys: Vec<Token> = Vec::new();
        loop {
            let Some(token) = self.next() else {
                return Err(CorefileError::new(self.end, "a block must follow: `{` is missing"));
            };
            if token.is("{") {
                if keys.is_empty() {
                    let fault = "a zone must stand before this brace, such as `.:53`";
                    return Err(CorefileError::new(token.at, fault));
                }
                return Ok(keys);
            }
            if token.is("}") {
                return Err(CorefileError::new(token.at, "this brace closes nothing"));
            }
            for key in token.text.split(',').filter(|key| !key.is_empty()) {
                keys.push(Token { text: key.to_owned(), ..token.clone() });
            }
        }
    }

    fn directives(&mut self, keys: &[Token]) -> Result<Vec<Directive>, CorefileError> {
        let mut directives = Vec::new();
        loop {
            let Some(name) = self.next() else {
                let fault = format!("the block of {:?} is never closed", keys[0].text);
                return Err(CorefileError::new(keys[0].at, fault));
            };
            if name.is("}") {
                return Ok(directives);
            }
            if name.is("{") {
                return Err(CorefileError::new(name.at, "a name must stand before this brace"));
            }
            let (arguments, has_block) = self.line(&name);
            let options = if has_block { self.options(&name)? } else { Vec::new() };
            directives.push(Directive { name, arguments, options });
        }
    }

    /// The rest of a line, and whether it ends with an opening brace.
    fn line(&mut self, name: &Token) -> (Vec<Token>, bool) {
        let mut words = Vec::new();
        while let Some(word) = self.next_on(name.at.line) {
            if word.is("{") {
                return (words, true);
            }
            words.push(word);
        }
        (words, false)
    }

    fn options(&mut self, directive: &Token) -> Result<Vec<(Token, Vec<Token>)>, CorefileError> {
        let mut options = Vec::new();
        loop {
            let Some(name) = self.next() else {
                let fault = format!("the block of {:?} is never closed", directive.text);
                return Err(CorefileError::new(directive.at, fault));
            };
            if name.is("}") {
                return Ok(options);
            }
            if name.is("{") {
                return Err(CorefileError::new(name.at, "a name must stand before this brace"));
            }
            let (words, has_block) = self.line(&name);
            if has_block {
                let fault = format!("{:?} has no block of its own", name.text);
                return Err(CorefileError::new(self.end, fault));
            }
            options.push((name, words));
        }
    }
}
