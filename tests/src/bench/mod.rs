//! What is measured on a lab: each bench prints a table.

mod audit;
pub mod executor;
pub mod idle;
mod place;
pub mod scheduling;
pub mod start;

pub use place::Place;
