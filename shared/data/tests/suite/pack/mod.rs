//! A pack is the folder it was made of, whatever happens on the way to it.

mod damage;
mod making;
mod reading;
mod support;
