//! Whole questions and answers, over the crate's public face.

mod cases;
mod daemon;
mod hostile;
mod server;
