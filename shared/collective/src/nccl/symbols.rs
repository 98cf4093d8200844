//! Functions of a C library that is loaded at run time.

/// Declares a struct of functions that are found by their names:
/// `functions! { Struct { field = b"name": type, } }`.
macro_rules! functions {
    ($Functions:ident { $($field:ident = $name:literal: $kind:ty,)* }) => {
        pub(super) struct $Functions {
            $(pub $field: $kind,)*
        }

        impl $Functions {
            /// Finds every function; the error names the first one that is not there.
            ///
            /// # Safety
            /// The types are those that the library's header gives to these names, and it is never unloaded.
            unsafe fn find(library: &libloading::Library) -> Result<Self, &'static str> {
                Ok(Self {
                    // SAFETY: the caller's promise.
                    $($field: *unsafe { library.get::<$kind>($name) }.map_err(|_| $name)?,)*
                })
            }
        }
    };
}
