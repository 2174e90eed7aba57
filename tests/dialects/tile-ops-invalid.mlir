// What the tile ops refuse, one case an op and rule. Programs, pairs, contractions and types: tile-invalid.mlir.
// RUN: flare-opt %s -split-input-file -verify-diagnostics

// expected-error @+1 {{role "output" must be "input", "result", "workspace" or "scalar"}}
tile.program @p [{name = "k", role = "output"}] {
^bb0(%k: !flare.tensor<n, d=8, f32>):
}

// -----

tile.program @p [{name = "k", role = "input"}] {
^bb0(%k: !flare.tensor<n, d=8, f32>):
  // expected-error @+1 {{kind "map" must be "sweep", "merge" or "park"}}
  tile.kernel @a "map" sweep 0 {
  ^bb0(%first: index):
  }
}

// -----

tile.program @p [{name = "k", role = "input"}] {
^bb0(%k: !flare.tensor<n, d=8, f32>):
  // expected-error @+1 {{a sweep and what is parked for it have a config, a merge none}}
  tile.kernel @a "sweep" sweep 0 {
  ^bb0(%first: index):
  }
}

// -----

tile.program @p [{name = "k", role = "input"}] {
^bb0(%k: !flare.tensor<n, d=8, f32>):
  // expected-error @+1 {{body takes the worker's first latent (index)}}
  tile.kernel @a "merge" sweep 0 {
  ^bb0:
  }
}

// -----

func.func @stream(%k: !flare.tensor<n, d=8, bf16>, %z0: !tile.tile<m=16, f32>) {
  // expected-error @+1 {{tile 24 must be a positive multiple of 16}}
  %r = tile.stream (%k) init (%z0) tile 24 : (!flare.tensor<n, d=8, bf16>), (!tile.tile<m=16, f32>) -> (!tile.tile<m=16, f32>) {
  ^bb0(%n0: index, %s: !tile.stage<n=64, d=8, bf16>, %z: !tile.tile<m=16, f32>):
    tile.yield %z : !tile.tile<m=16, f32>
  }
  return
}

// -----

func.func @stream(%k: !flare.tensor<m=20, d=8, bf16>, %z0: !tile.tile<m=16, f32>) {
  // expected-error @+1 {{streams tokens, not '!flare.tensor<m=20, d=8, bf16>'}}
  %r = tile.stream (%k) init (%z0) tile 64 : (!flare.tensor<m=20, d=8, bf16>), (!tile.tile<m=16, f32>) -> (!tile.tile<m=16, f32>) {
  ^bb0(%n0: index, %s: !tile.stage<n=64, d=8, bf16>, %z: !tile.tile<m=16, f32>):
    tile.yield %z : !tile.tile<m=16, f32>
  }
  return
}

// -----

func.func @stream(%k: !flare.tensor<n, d=8, bf16>, %z0: !tile.tile<m=16, f32>) {
  // expected-error @+1 {{results must have the types of what is carried}}
  %r = tile.stream (%k) init (%z0) tile 64 : (!flare.tensor<n, d=8, bf16>), (!tile.tile<m=16, f32>) -> (!tile.tile<m=16, d=8, f32>) {
  ^bb0(%n0: index, %s: !tile.stage<n=64, d=8, bf16>, %z: !tile.tile<m=16, f32>):
    tile.yield %z : !tile.tile<m=16, f32>
  }
  return
}

// -----

func.func @stream(%k: !flare.tensor<n, d=8, bf16>, %z0: !tile.tile<m=16, f32>) {
  // expected-error @+1 {{body takes the tile's first token, the staged rows and what is carried, that is ('index', '!tile.stage<n=64, d=8, bf16>', '!tile.tile<m=16, f32>'), but has ('index', '!tile.stage<n=32, d=8, bf16>', '!tile.tile<m=16, f32>')}}
  %r = tile.stream (%k) init (%z0) tile 64 : (!flare.tensor<n, d=8, bf16>), (!tile.tile<m=16, f32>) -> (!tile.tile<m=16, f32>) {
  ^bb0(%n0: index, %s: !tile.stage<n=32, d=8, bf16>, %z: !tile.tile<m=16, f32>):
    tile.yield %z : !tile.tile<m=16, f32>
  }
  return
}

// -----

func.func @stream(%k: !flare.tensor<n, d=8, bf16>, %z0: !tile.tile<m=16, f32>) {
  // expected-error @+1 {{body must end in a tile.yield of ('!tile.tile<m=16, f32>')}}
  %r = tile.stream (%k) init (%z0) tile 64 : (!flare.tensor<n, d=8, bf16>), (!tile.tile<m=16, f32>) -> (!tile.tile<m=16, f32>) {
  ^bb0(%n0: index, %s: !tile.stage<n=64, d=8, bf16>, %z: !tile.tile<m=16, f32>):
    tile.yield
  }
  return
}

// -----

func.func @pairs(%z0: !tile.tile<m=16, f32>) {
  // expected-error @+1 {{unroll -1 must be 0 (all) or a number of column blocks}}
  %r = tile.pairs rows m unroll -1 ins () init (%z0) : (), (!tile.tile<m=16, f32>) -> (!tile.tile<m=16, f32>) {
  ^bb0(%i: index, %j: index, %z: !tile.tile<m=16, f32>):
    tile.yield %z : !tile.tile<m=16, f32>
  }
  return
}

// -----

func.func @pairs(%s: f32, %z0: !tile.tile<m=16, f32>) {
  // expected-error @+1 {{slices tiles, stages and stashes, not 'f32'}}
  %r = tile.pairs rows m unroll 0 ins (%s) init (%z0) : (f32), (!tile.tile<m=16, f32>) -> (!tile.tile<m=16, f32>) {
  ^bb0(%i: index, %j: index, %a: f32, %z: !tile.tile<m=16, f32>):
    tile.yield %z : !tile.tile<m=16, f32>
  }
  return
}

// -----

func.func @pairs(%s: !tile.stage<n=64, d=8, bf16>, %z0: !tile.tile<m=16, f32>) {
  // expected-error @+1 {{body takes the first row, the first column and blocks of 16, that is ('index', 'index', '!tile.tile<n=16, d=8, bf16>', '!tile.tile<m=16, f32>'), but has ('index', 'index', '!tile.tile<n=64, d=8, bf16>', '!tile.tile<m=16, f32>')}}
  %r = tile.pairs rows m unroll 0 ins (%s) init (%z0) : (!tile.stage<n=64, d=8, bf16>), (!tile.tile<m=16, f32>) -> (!tile.tile<m=16, f32>) {
  ^bb0(%i: index, %j: index, %a: !tile.tile<n=64, d=8, bf16>, %z: !tile.tile<m=16, f32>):
    tile.yield %z : !tile.tile<m=16, f32>
  }
  return
}

// -----

func.func @stash() {
  // expected-error @+1 {{20 latents must be a positive multiple of 16}}
  %s = tile.stash 20 -> !tile.stash<m=20, f32> {
  ^bb0(%first: index):
    %c = tile.constant 0.0 : !tile.tile<m=16, f32>
    tile.yield %c : !tile.tile<m=16, f32>
  }
  return
}

// -----

func.func @stash() {
  // expected-error @+1 {{parks 32 latents, of which '!tile.stash<m=48, f32>' is no whole share}}
  %s = tile.stash 32 -> !tile.stash<m=48, f32> {
  ^bb0(%first: index):
    %c = tile.constant 0.0 : !tile.tile<m=16, f32>
    tile.yield %c : !tile.tile<m=16, f32>
  }
  return
}

// -----

func.func @stash() {
  // expected-error @+1 {{body must end in a tile.yield of ('!tile.tile<m=16, f32>')}}
  %s = tile.stash 32 -> !tile.stash<m=32, f32> {
  ^bb0(%first: index):
    %c = tile.constant 0.0 : !tile.tile<m=32, f32>
    tile.yield %c : !tile.tile<m=32, f32>
  }
  return
}

// -----

func.func @load(%q: !flare.tensor<m=20, d=8, bf16>, %i: index) {
  // expected-error @+1 {{moves rows of '!flare.tensor<m=20, d=8, bf16>', which '!tile.tile<n=16, d=8, f32>' cannot hold}}
  %t = tile.load %q at %i : !flare.tensor<m=20, d=8, bf16> -> !tile.tile<n=16, d=8, f32>
  return
}

// -----

func.func @load(%q: !flare.tensor<m=20, d=8, bf16>, %i: index) {
  // expected-error @+1 {{moves rows of '!flare.tensor<m=20, d=8, bf16>', which '!tile.tile<m=16, d=4, f32>' cannot hold}}
  %t = tile.load %q at %i : !flare.tensor<m=20, d=8, bf16> -> !tile.tile<m=16, d=4, f32>
  return
}

// -----

func.func @read(%s: !tile.stage<n=64, d=8, bf16>, %i: index) {
  // expected-error @+1 {{cannot read '!tile.tile<n=128, d=8, bf16>' from '!tile.stage<n=64, d=8, bf16>'}}
  %t = tile.read %s at %i : !tile.stage<n=64, d=8, bf16> -> !tile.tile<n=128, d=8, bf16>
  return
}

// -----

func.func @read(%s: !tile.stage<n=64, d=8, bf16>, %i: index) {
  // expected-error @+1 {{cannot read '!tile.tile<n=16, d=8, f32>' from}}
  %t = tile.read %s at %i : !tile.stage<n=64, d=8, bf16> -> !tile.tile<n=16, d=8, f32>
  return
}

// -----

func.func @store(%t: !tile.tile<m=16, d=8, f32>, %k: !flare.tensor<n, d=8, bf16>, %i: index) {
  // expected-error @+1 {{moves rows of '!flare.tensor<n, d=8, bf16>', which '!tile.tile<m=16, d=8, f32>' cannot hold}}
  tile.store %t, %k at %i : !tile.tile<m=16, d=8, f32>, !flare.tensor<n, d=8, bf16>
  return
}

// -----

func.func @store(%t: !tile.tile<n=16, d=8, f32>, %k: !flare.tensor<n, d=8, bf16>, %i: index) {
  // expected-error @+1 {{partial results are of latents, not '!flare.tensor<n, d=8, bf16>'}}
  tile.store %t, %k at %i partial : !tile.tile<n=16, d=8, f32>, !flare.tensor<n, d=8, bf16>
  return
}

// -----

func.func @merge(%o: !flare.tensor<m=20, d=8, f32>, %s: !flare.tensor<m=20, f32>, %r: !flare.tensor<m=4, f32>, %i: index) {
  // expected-error @+1 {{sum and reference are f32 numbers, one for each latent of '!flare.tensor<m=20, d=8, f32>', got '!flare.tensor<m=20, f32>' and '!flare.tensor<m=4, f32>'}}
  %z, %l = tile.merge %o, %s, %r at %i : !flare.tensor<m=20, d=8, f32>, !flare.tensor<m=20, f32>, !flare.tensor<m=4, f32> -> !tile.tile<m=32, d=8, f32>, !tile.tile<m=32, f32>
  return
}

// -----

func.func @merge(%o: !flare.tensor<m=20, d=8, f32>, %s: !flare.tensor<m=20, f32>, %i: index) {
  // expected-error @+1 {{cannot hold}}
  %z, %l = tile.merge %o, %s, %s at %i : !flare.tensor<m=20, d=8, f32>, !flare.tensor<m=20, f32>, !flare.tensor<m=20, f32> -> !tile.tile<m=32, f32>, !tile.tile<m=32, f32>
  return
}

// -----

func.func @merge_sum(%o: !flare.tensor<m=20, d=8, f32>, %i: index) {
  // expected-error @+1 {{computes in f32, got '!tile.tile<m=32, d=8, bf16>'}}
  %z = tile.merge_sum %o at %i : !flare.tensor<m=20, d=8, f32> -> !tile.tile<m=32, d=8, bf16>
  return
}

// -----

func.func @max_norm(%o: !flare.tensor<n, d=8, bf16>) {
  // expected-error @+1 {{takes latents with channels, not '!flare.tensor<n, d=8, bf16>'}}
  %z = tile.max_norm %o : !flare.tensor<n, d=8, bf16>
  return
}

// -----

func.func @bounded(%s: !tile.stage<n=64, bf16>, %i: index, %f: f32) {
  // expected-error @+1 {{takes staged rows with channels, or numbers in f32, not '!tile.stage<n=64, bf16>'}}
  %z = tile.bounded %s at %i factor %f limit 60.0 : !tile.stage<n=64, bf16>
  return
}

// -----

func.func @contract(%a: !tile.tile<n=16, d=8, bf16>, %b: !tile.tile<m=16, d=16, bf16>) {
  // expected-error @+1 {{'!tile.tile<n=16, d=8, bf16>' and '!tile.tile<m=16, d=16, bf16>' contracted over d do not make '!tile.tile<n=16, m=16, f32>'}}
  %z = tile.contract (%a), (%b) over d : (!tile.tile<n=16, d=8, bf16>), (!tile.tile<m=16, d=16, bf16>) -> !tile.tile<n=16, m=16, f32>
  return
}

// -----

func.func @contract(%a: !tile.tile<n=16, d=8, bf16>, %b: !tile.tile<m=16, d=8, f32>) {
  // expected-error @+1 {{operands have one element type, got}}
  %z = tile.contract (%a), (%b) over d : (!tile.tile<n=16, d=8, bf16>), (!tile.tile<m=16, d=8, f32>) -> !tile.tile<n=16, m=16, f32>
  return
}

// -----

func.func @sum(%x: !tile.tile<n=16, m=16, f32>, %a: !tile.tile<m=16, f32>) {
  // expected-error @+1 {{'!tile.tile<n=16, m=16, f32>' summed over d does not make '!tile.tile<m=16, f32>'}}
  %z = tile.sum %x over d into %a : !tile.tile<n=16, m=16, f32>, !tile.tile<m=16, f32>
  return
}

// -----

func.func @total(%x: !tile.tile<m=16, f32>) {
  // expected-error @+1 {{takes and makes tiles of one shape, got '!tile.tile<m=16, f32>' and '!tile.tile<m=16, d=8, f32>'}}
  %z = tile.total %x : !tile.tile<m=16, f32> -> !tile.tile<m=16, d=8, f32>
  return
}

// -----

func.func @reduce(%x: !tile.tile<n=16, m=16, f32>) {
  // expected-error @+1 {{kind "min" must be "add" or "max"}}
  %z = tile.reduce "min" %x over n : !tile.tile<n=16, m=16, f32> -> !tile.tile<m=16, f32>
  return
}

// -----

func.func @reduce(%x: !tile.tile<n=16, m=16, f32>) {
  // expected-error @+1 {{reduced over m does not make '!tile.tile<m=16, f32>'}}
  %z = tile.reduce "max" %x over m : !tile.tile<n=16, m=16, f32> -> !tile.tile<m=16, f32>
  return
}

// -----

func.func @add(%x: !tile.tile<n=16, m=16, f32>, %y: !tile.tile<m=32, f32>) {
  // expected-error @+1 {{'!tile.tile<n=16, m=16, f32>' and '!tile.tile<m=32, f32>' do not broadcast to '!tile.tile<n=16, m=16, f32>'}}
  %z = tile.add %x, %y : !tile.tile<n=16, m=16, f32>, !tile.tile<m=32, f32> -> !tile.tile<n=16, m=16, f32>
  return
}

// -----

func.func @sub(%x: !tile.tile<n=16, m=16, f32>, %y: !tile.tile<m=32, f32>) {
  // expected-error @+1 {{'!tile.tile<n=16, m=16, f32>' and '!tile.tile<m=32, f32>' do not broadcast to '!tile.tile<n=16, m=16, f32>'}}
  %z = tile.sub %x, %y : !tile.tile<n=16, m=16, f32>, !tile.tile<m=32, f32> -> !tile.tile<n=16, m=16, f32>
  return
}

// -----

func.func @mul(%x: !tile.tile<n=16, m=16, f32>, %y: !tile.tile<m=32, f32>) {
  // expected-error @+1 {{'!tile.tile<n=16, m=16, f32>' and '!tile.tile<m=32, f32>' do not broadcast to '!tile.tile<n=16, m=16, f32>'}}
  %z = tile.mul %x, %y : !tile.tile<n=16, m=16, f32>, !tile.tile<m=32, f32> -> !tile.tile<n=16, m=16, f32>
  return
}

// -----

func.func @max(%x: !tile.tile<n=16, m=16, f32>, %y: !tile.tile<m=32, f32>) {
  // expected-error @+1 {{'!tile.tile<n=16, m=16, f32>' and '!tile.tile<m=32, f32>' do not broadcast to '!tile.tile<n=16, m=16, f32>'}}
  %z = tile.max %x, %y : !tile.tile<n=16, m=16, f32>, !tile.tile<m=32, f32> -> !tile.tile<n=16, m=16, f32>
  return
}

// -----

func.func @neg(%x: !tile.tile<n=16, m=16, bf16>) {
  // expected-error @+1 {{computes in f32, got '!tile.tile<n=16, m=16, bf16>'; tile.cast widens}}
  %z = tile.neg %x : !tile.tile<n=16, m=16, bf16> -> !tile.tile<n=16, m=16, bf16>
  return
}

// -----

func.func @exp2(%x: !tile.tile<n=16, m=16, bf16>) {
  // expected-error @+1 {{computes in f32, got '!tile.tile<n=16, m=16, bf16>'; tile.cast widens}}
  %z = tile.exp2 %x : !tile.tile<n=16, m=16, bf16> -> !tile.tile<n=16, m=16, bf16>
  return
}

// -----

func.func @log2(%x: !tile.tile<n=16, m=16, bf16>) {
  // expected-error @+1 {{computes in f32, got '!tile.tile<n=16, m=16, bf16>'; tile.cast widens}}
  %z = tile.log2 %x : !tile.tile<n=16, m=16, bf16> -> !tile.tile<n=16, m=16, bf16>
  return
}

// -----

func.func @rcp(%x: !tile.tile<n=16, m=16, bf16>) {
  // expected-error @+1 {{computes in f32, got '!tile.tile<n=16, m=16, bf16>'; tile.cast widens}}
  %z = tile.rcp %x : !tile.tile<n=16, m=16, bf16> -> !tile.tile<n=16, m=16, bf16>
  return
}

// -----

func.func @broadcast(%x: !tile.tile<n=16, m=16, f32>) {
  // expected-error @+1 {{'!tile.tile<n=16, m=16, f32>' and '!tile.tile<m=16, f32>' do not broadcast to '!tile.tile<m=16, f32>'}}
  %z = tile.broadcast %x : !tile.tile<n=16, m=16, f32> -> !tile.tile<m=16, f32>
  return
}

// -----

func.func @cast(%x: !tile.tile<m=16, f32>) {
  // expected-error @+1 {{takes and makes tiles of one shape}}
  %z = tile.cast %x : !tile.tile<m=16, f32> -> !tile.tile<m=32, bf16>
  return
}

// -----

func.func @scale(%x: !tile.tile<m=16, f32>, %s: f32) {
  // expected-error @+1 {{takes and makes tiles of one shape}}
  %z = tile.scale %x by %s : !tile.tile<m=16, f32> -> !tile.tile<m=16, d=8, f32>
  return
}

// -----

func.func @split(%x: !tile.tile<m=16, f32>) {
  // expected-error @+1 {{makes two tiles of one 16-bit type, got}}
  %h, %l = tile.split %x : !tile.tile<m=16, f32> -> !tile.tile<m=16, bf16>, !tile.tile<m=16, f16>
  return
}

// -----

func.func @split(%x: !tile.tile<m=16, f32>) {
  // expected-error @+1 {{makes two tiles of one 16-bit type, got}}
  %h, %l = tile.split %x : !tile.tile<m=16, f32> -> !tile.tile<m=16, f32>, !tile.tile<m=16, f32>
  return
}

// -----

func.func @constant() {
  // expected-error @+1 {{computes in f32, got '!tile.tile<m=16, bf16>'}}
  %c = tile.constant 0.0 : !tile.tile<m=16, bf16>
  return
}

// -----

func.func @mask(%x: !tile.tile<n=16, m=16, f32>, %i: index) {
  // expected-error @+1 {{'!tile.tile<n=16, m=16, f32>' does not carry d}}
  %z = tile.mask %x over d first %i limit %i fill 0.0 : !tile.tile<n=16, m=16, f32> -> !tile.tile<n=16, m=16, f32>
  return
}

// -----

func.func @exceeds(%x: !tile.tile<n=16, m=16, f32>, %limit: !tile.tile<m=32, f32>) {
  // expected-error @+1 {{compares pairs with one number a row, got '!tile.tile<n=16, m=16, f32>' and '!tile.tile<m=32, f32>'}}
  %any = tile.exceeds %x, %limit by 8.0 : !tile.tile<n=16, m=16, f32>, !tile.tile<m=32, f32>
  return
}

// -----

func.func @where(%m: !tile.tile<n=16, f32>, %x: !tile.tile<n=16, m=16, f32>) {
  // expected-error @+1 {{the mask must be of tokens and i8, got '!tile.tile<n=16, f32>'}}
  %z = tile.where %m, %x else 0.0 : !tile.tile<n=16, f32>, !tile.tile<n=16, m=16, f32> -> !tile.tile<n=16, m=16, f32>
  return
}

// -----

func.func @where_tokens(%m: !tile.tile<n=32, i8>, %x: !tile.tile<n=16, m=16, f32>) {
  // expected-error @+1 {{'!tile.tile<n=16, m=16, f32>' has not the tokens of the mask '!tile.tile<n=32, i8>'}}
  %z = tile.where %m, %x else 0.0 : !tile.tile<n=32, i8>, !tile.tile<n=16, m=16, f32> -> !tile.tile<n=16, m=16, f32>
  return
}

// -----

func.func @combine(%a: !tile.tile<n=32, d=8, f32>) {
  // expected-error @+1 {{names 3 owners of 2 blocks of 16 rows}}
  %s = tile.combine %a owners [0, 1, 2] : !tile.tile<n=32, d=8, f32> -> !tile.tile<n=32, d=8, f32>
  return
}

// -----

func.func @combine(%a: !tile.tile<n=48, d=8, f32>) {
  // expected-error @+1 {{owners get equally many blocks of rows, from owner 0 on}}
  %s = tile.combine %a owners [0, 0, 1] : !tile.tile<n=48, d=8, f32> -> !tile.tile<n=48, d=8, f32>
  return
}

// -----

func.func @combine(%a: !tile.tile<n=16, d=8, f32>, %b: !tile.tile<n=16, d=16, f32>) {
  // expected-error @+1 {{combines rows of equally many channels, not '!tile.tile<n=16, d=8, f32>' and '!tile.tile<n=16, d=16, f32>'}}
  %s:2 = tile.combine %a, %b owners [0, 1] : !tile.tile<n=16, d=8, f32>, !tile.tile<n=16, d=16, f32> -> !tile.tile<n=16, d=8, f32>, !tile.tile<n=16, d=16, f32>
  return
}

// -----

func.func @combine(%a: !tile.tile<m=16, d=8, f32>) {
  // expected-error @+1 {{combines rows of tokens with channels, not '!tile.tile<m=16, d=8, f32>'}}
  %s = tile.combine %a owners [0] : !tile.tile<m=16, d=8, f32> -> !tile.tile<m=16, d=8, f32>
  return
}

// -----

func.func @store(%t: !tile.tile<n=32, d=8, f32>, %y: !flare.tensor<n, d=8, bf16>, %first: index) {
  // expected-error @+1 {{owners are of each block of 16 tokens}}
  tile.store %t, %y at %first owners [0] : !tile.tile<n=32, d=8, f32>, !flare.tensor<n, d=8, bf16>
  return
}

// -----

func.func @overflows(%w: !tile.tile<n=16, m=16, bf16>) {
  // expected-error @+1 {{looks at pairs in f16, got '!tile.tile<n=16, m=16, bf16>'}}
  %a = tile.overflows %w : !tile.tile<n=16, m=16, bf16>
  return
}

// -----

func.func @within(%x: !tile.tile<n=16, f16>) {
  // expected-error @+1 {{computes in f32}}
  %a = tile.within %x from 0.5 to 8.0 : !tile.tile<n=16, f16>
  return
}

// -----

func.func @mask(%w: !tile.tile<n=16, m=16, f16>, %i: index) {
  // expected-error @+1 {{computes in f32}}
  %c = tile.mask %w over n first %i limit %i fill 1.0 : !tile.tile<n=16, m=16, f16> -> !tile.tile<n=16, m=16, f16>
  return
}

// -----

func.func @stash_row(%q: !flare.tensor<m=32, d=8, bf16>, %there: !flare.tensor<m=32, d=64, f32>) {
  // expected-error @+1 {{keeps 32 latents in '!flare.tensor<m=32, d=64, f32>'; a stash in memory has a row of f32 for each 16}}
  %s = tile.stash 32 memory %there : !flare.tensor<m=32, d=64, f32> -> !tile.stash<m=32, d=8, f32> {
  ^bb0(%first: index):
    %t = tile.load %q at %first : !flare.tensor<m=32, d=8, bf16> -> !tile.tile<m=16, d=8, f32>
    tile.yield %t : !tile.tile<m=16, d=8, f32>
  }
  return
}
