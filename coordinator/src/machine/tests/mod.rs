mod bench;
mod dying;
mod joining;
mod running;
