// A configuration that nothing can be run by is refused where it is read.
// RUN: flare-opt %s -split-input-file -verify-diagnostics

// expected-error @+1 {{rows are tokens (n) or latents (m), not channels (d)}}
func.func private @f() attributes {c = #tile.config<rows = d, tile = 64, heads = 1, row_groups = 1, workers = 1, worker_rows = 16, stages = 2, unroll = 0, blocks = 1, sums = "mma", exp = "mufu", park = "shared", min_blocks = 1>}

// -----

// expected-error @+1 {{tile = 24 must be a positive multiple of 16}}
func.func private @f() attributes {c = #tile.config<rows = m, tile = 24, heads = 1, row_groups = 1, workers = 1, worker_rows = 16, stages = 2, unroll = 0, blocks = 1, sums = "mma", exp = "mufu", park = "shared", min_blocks = 1>}

// -----

// expected-error @+1 {{worker_rows = 0 must be a positive multiple of 16}}
func.func private @f() attributes {c = #tile.config<rows = m, tile = 64, heads = 1, row_groups = 1, workers = 1, worker_rows = 0, stages = 2, unroll = 0, blocks = 1, sums = "mma", exp = "mufu", park = "shared", min_blocks = 1>}

// -----

// expected-error @+1 {{heads = -1 must be a positive multiple of 1}}
func.func private @f() attributes {c = #tile.config<rows = m, tile = 64, heads = -1, row_groups = 1, workers = 1, worker_rows = 16, stages = 2, unroll = 0, blocks = 1, sums = "mma", exp = "mufu", park = "shared", min_blocks = 1>}

// -----

// expected-error @+1 {{workers = 0 must be a positive multiple of 1}}
func.func private @f() attributes {c = #tile.config<rows = m, tile = 64, heads = 1, row_groups = 1, workers = 0, worker_rows = 16, stages = 2, unroll = 0, blocks = 1, sums = "mma", exp = "mufu", park = "shared", min_blocks = 1>}

// -----

// expected-error @+1 {{unroll = -1 must be 0 (all) or a number of column blocks}}
func.func private @f() attributes {c = #tile.config<rows = m, tile = 64, heads = 1, row_groups = 1, workers = 1, worker_rows = 16, stages = 2, unroll = -1, blocks = 1, sums = "mma", exp = "mufu", park = "shared", min_blocks = 1>}

// -----

// expected-error @+1 {{heads = 16 of 4 workers are 2048 threads; a block has 1024 at most}}
func.func private @f() attributes {c = #tile.config<rows = m, tile = 64, heads = 16, row_groups = 1, workers = 4, worker_rows = 16, stages = 2, unroll = 0, blocks = 1, sums = "mma", exp = "mufu", park = "shared", min_blocks = 1>}

// -----

// expected-error @+1 {{matrix = "wmma" must be "mma" or "wgmma"}}
func.func private @f() attributes {c = #tile.config<rows = m, tile = 64, heads = 1, row_groups = 1, workers = 4, worker_rows = 16, stages = 2, unroll = 0, blocks = 1, sums = "mma", exp = "mufu", park = "shared", min_blocks = 1, matrix = "wmma">}

// -----

// expected-error @+1 {{matrix = "wgmma" takes workers in groups of 4 that all have rows of their own: workers = 6, column_workers = 1 must be a multiple of 4, and 1}}
func.func private @f() attributes {c = #tile.config<rows = m, tile = 64, heads = 1, row_groups = 1, workers = 6, worker_rows = 16, stages = 2, unroll = 0, blocks = 1, sums = "mma", exp = "mufu", park = "shared", min_blocks = 1, matrix = "wgmma">}

// -----

// expected-error @+1 {{sums = "tree" must be "mma" or "add"}}
func.func private @f() attributes {c = #tile.config<rows = m, tile = 64, heads = 1, row_groups = 1, workers = 1, worker_rows = 16, stages = 2, unroll = 0, blocks = 1, sums = "tree", exp = "mufu", park = "shared", min_blocks = 1>}

// -----

// expected-error @+1 {{exp = "poly3:17" must be "mufu", "poly5", or "poly3:k" or "bits:k" with k from 0 to 16}}
func.func private @f() attributes {c = #tile.config<rows = m, tile = 64, heads = 1, row_groups = 1, workers = 1, worker_rows = 16, stages = 2, unroll = 0, blocks = 1, sums = "mma", exp = "poly3:17", park = "shared", min_blocks = 1>}

// -----

// expected-error @+1 {{park = "l2" must be "shared", "fast" or "none"}}
func.func private @f() attributes {c = #tile.config<rows = m, tile = 64, heads = 1, row_groups = 1, workers = 1, worker_rows = 16, stages = 2, unroll = 0, blocks = 1, sums = "mma", exp = "mufu", park = "l2", min_blocks = 1>}

// -----

// expected-error @+1 {{struct is missing required parameter: heads}}
func.func private @f() attributes {c = #tile.config<rows = m, tile = 64>}

// -----

// expected-error @+1 {{tile = 4611686018427387904 must be a positive multiple of 16, 65536 at most}}
func.func private @f() attributes {c = #tile.config<rows = m, tile = 4611686018427387904, heads = 1, row_groups = 1, workers = 1, worker_rows = 16, stages = 2, unroll = 0, blocks = 1, sums = "mma", exp = "mufu", park = "shared", min_blocks = 1>}

// -----

// expected-error @+1 {{blocks = 65537 must be a positive multiple of 1, 65536 at most}}
func.func private @f() attributes {c = #tile.config<rows = m, tile = 64, heads = 1, row_groups = 1, workers = 1, worker_rows = 16, stages = 2, unroll = 0, blocks = 65537, sums = "mma", exp = "mufu", park = "shared", min_blocks = 1>}

// -----

// expected-error @+1 {{unroll = 65537 must be 0 (all) or a number of column blocks, 65536 at most}}
func.func private @f() attributes {c = #tile.config<rows = m, tile = 64, heads = 1, row_groups = 1, workers = 1, worker_rows = 16, stages = 2, unroll = 65537, blocks = 1, sums = "mma", exp = "mufu", park = "shared", min_blocks = 1>}

// -----

// expected-error @+1 {{tile = 64 must be workers · worker_rows = 1 · 16 = 16 where rows = n: each worker has its tokens of a tile}}
func.func private @f() attributes {c = #tile.config<rows = n, tile = 64, heads = 1, row_groups = 1, workers = 1, worker_rows = 16, stages = 2, unroll = 0, blocks = 1, sums = "mma", exp = "mufu", park = "shared", min_blocks = 1>}

// -----

// expected-error @+1 {{row_groups = 2 must be 1 where rows = n: it is latents that blocks can share out}}
func.func private @f() attributes {c = #tile.config<rows = n, tile = 16, heads = 1, row_groups = 2, workers = 1, worker_rows = 16, stages = 2, unroll = 0, blocks = 1, sums = "mma", exp = "mufu", park = "shared", min_blocks = 1>}

// -----

// expected-error @+1 {{park = "none" must be "shared" where rows = m: latent operands are in registers, nothing is parked}}
func.func private @f() attributes {c = #tile.config<rows = m, tile = 64, heads = 1, row_groups = 1, workers = 1, worker_rows = 16, stages = 2, unroll = 0, blocks = 1, sums = "mma", exp = "mufu", park = "none", min_blocks = 1>}

// -----

// expected-error @+1 {{column_workers = 0 must be a positive multiple of 1}}
func.func private @f() attributes {c = #tile.config<rows = n, tile = 32, heads = 1, row_groups = 1, workers = 4, worker_rows = 16, stages = 2, unroll = 0, blocks = 1, sums = "mma", exp = "mufu", park = "shared", min_blocks = 1, column_workers = 0>}

// -----

// expected-error @+1 {{column_workers = 3 must divide workers = 4: each of these has rows and columns}}
func.func private @f() attributes {c = #tile.config<rows = n, tile = 32, heads = 1, row_groups = 1, workers = 4, worker_rows = 16, stages = 2, unroll = 0, blocks = 1, sums = "mma", exp = "mufu", park = "shared", min_blocks = 1, column_workers = 3>}

// -----

// expected-error @+1 {{column_workers = 2 must be 1 where rows = m: splits share out the tokens}}
func.func private @f() attributes {c = #tile.config<rows = m, tile = 32, heads = 1, row_groups = 1, workers = 4, worker_rows = 16, stages = 2, unroll = 0, blocks = 1, sums = "mma", exp = "mufu", park = "shared", min_blocks = 1, column_workers = 2>}

// -----

// expected-error @+1 {{tile = 32 must be workers / column_workers · worker_rows = 1 · 16 = 16 where rows = n}}
func.func private @f() attributes {c = #tile.config<rows = n, tile = 32, heads = 1, row_groups = 1, workers = 4, worker_rows = 16, stages = 2, unroll = 0, blocks = 1, sums = "mma", exp = "mufu", park = "shared", min_blocks = 1, column_workers = 4>}
