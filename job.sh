tar -xzf .carry/build.tar.gz; export LD_LIBRARY_PATH=$(python3 -c 'import torch, os; print(os.path.join(os.path.dirname(torch.__file__), "lib"))')
cat > /tmp/w.py <<'P'
import torch, time, sys
torch.ops.load_library("build/lib/libflarec_torch.so")
n=int(sys.argv[1])
q=torch.randn(1,8,128,8,device="cuda",dtype=torch.bfloat16,requires_grad=True); k,v=[torch.randn(1,8,n,8,device="cuda",dtype=torch.bfloat16,requires_grad=True) for _ in range(2)]
g=torch.randn_like(k); x=torch.randn(64,64,device="cuda"); (x@x).sum().item(); torch.autograd.grad((q*q).sum(),q)
torch.cuda.synchronize(); t=time.perf_counter()
y=torch.ops.flarec.mixer(q,k,v,1.0); torch.cuda.synchronize(); f=time.perf_counter()
torch.autograd.grad(y,(q,k,v),g); torch.cuda.synchronize(); b=time.perf_counter()
y=torch.ops.flarec.mixer(q,k,v,1.0);torch.autograd.grad(y,(q,k,v),g); torch.cuda.synchronize(); c=time.perf_counter()
print(f"N {n} start: forward {1e3*(f-t):.1f} ms, backward {1e3*(b-f):.1f} ms, again both {1e3*(c-b):.2f}", flush=True)
P
for i in 1 2 3; do FLAREC_CACHE_DIR=/tmp/wc python3 /tmp/w.py 4096; done; ls -la /tmp/wc | head; du -sh ~/.nv 2>/dev/null
for i in 1 2; do FLAREC_CACHE_DIR=/tmp/wc python3 /tmp/w.py 1000000; done
which strace gdb py-spy
FLAREC_CACHE_DIR=/tmp/wc python3 -X faulthandler -c "
import faulthandler,sys; faulthandler.dump_traceback_later(1.2,exit=False)
sys.argv=['w','4096']; exec(open('/tmp/w.py').read())" 2>&1 | tail -5
export FLAREC_TUNE_DIR=/tmp/tuned; mkdir -p /tmp/tuned; cp autotune/tables/*.json /tmp/tuned/
T="build/bin/flarec tune"
for s in "8 32 2048" "8 128 64" "8 128 16"; do set -- $s; $T --heads $1 --head-dim $2 --latents $3 --tokens 16384 --budget 14s 2>&1 | tail -10; done
cp /tmp/tuned/*.json $OUT/
python3 bench/table.py --sweep --only "bf16 8,(128,16|128,64|32,2048)$" --rounds 15 --json $OUT/sweep.json 2>&1 | grep 16384
