import pickle, sys, time, collections
import jax
jax.config.update("jax_disable_most_optimizations", True)
from inputs import judge
import importlib
t0=time.time()
tot=0
all_=[]
for pkg in sys.argv[1:]:
    m=importlib.import_module(f"inputs.calls_{pkg}")
    cs=m.calls()
    print("made", time.time()-t0, file=sys.stderr)
    for c in cs:
        t=time.time()
        try: out=judge.judge_all([c])
        except Exception as e:
            import traceback; traceback.print_exc(); print("## BROKEN", c.name, repr(e)[:300]); continue
        n=collections.Counter(o.verdict for o in out)
        print(f"## {pkg}.{c.name} {dict(n)} {time.time()-t:.2f}s", flush=True)
        tot+=len(out)
        for o in out:
            if o.verdict=="fault": print(f"  {o.argument} <- {o.case}: {o.said[:170]}")
        pickle.dump(out, open(f"/work/wt/tmp_fuzz/out_{pkg}_{len(all_)}_{c.name}.pkl","wb")); all_.append(c.name)
print(tot, time.time()-t0)
