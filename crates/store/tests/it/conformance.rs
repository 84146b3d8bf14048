//! Every behaviour of the contract, on every driver.

mod memory {
    use store::Memory;
    use testkit::store::Store;

    fn with(behaviour: fn(&dyn Store)) {
        behaviour(&Memory::new());
    }

    testkit::conformance_tests!(with);
}

mod embedded {
    use store::embedded::{Embedded, Options};
    use testkit::store::Store;

    fn with(behaviour: fn(&dyn Store)) {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Embedded::open(directory.path(), Options::default()).expect("opened");

        behaviour(&store);
    }

    testkit::conformance_tests!(with);
}

/// Two embedded pools as one, neighbouring queues in different ones.
mod pools {
    use std::sync::Arc;

    use store::Pools;
    use store::embedded::{Embedded, Options};
    use testkit::store::Store;

    fn with(behaviour: fn(&dyn Store)) {
        let directories = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
        let open = |nth: usize| {
            let path = directories[nth].path();
            Arc::new(Embedded::open(path, Options::default()).expect("opened"))
        };
        let first = open(0);
        let (pool, catalog) = (Arc::clone(&first) as _, first as _);
        let pools = Pools::with_homes(pool, catalog, |queue| u16::from(queue.0 % 2 == 0));
        pools.add(1, open(1));

        behaviour(&pools);
    }

    testkit::conformance_tests!(with);
}

/// Nothing stays in memory, segments are tiny.
mod embedded_small {
    use store::embedded::{Embedded, Options};
    use testkit::store::Store;

    fn with(behaviour: fn(&dyn Store)) {
        let directory = tempfile::tempdir().expect("a directory");
        let options = Options {
            segment_bytes: 64 * 1024,
            first_segment_bytes: 16 * 1024,
            resident_persistent_bytes: 0,
            resident_transient_bytes: 0,
            buffer_bytes: 4096,
            ..Options::default()
        };
        let store = Embedded::open(directory.path(), options).expect("opened");

        behaviour(&store);
    }

    testkit::conformance_tests!(with);
}
