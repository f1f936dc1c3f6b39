import json, pytest
from chat_styles import STYLES
from vlm_prep.core.errors import Reject
def user(t): return {"role":"user","content":t}
def assistant(t, **k): return {"role":"assistant","content":t,**k}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"n": 1}}}
TOOLS = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}]
tool={"role":"tool","content":"4"}
CASES={
 "reasoning":[user("Hi"),assistant("a",reasoning_content="hm")],
 "reasoning in text":[user("Hi"),assistant("<think>\nhm\n</think>\n\na")],
 "reasoning in text odd":[user("Hi"),assistant("<think>hm</think>a")],
 "empty think text":[user("Hi"),assistant("<think>\n\n</think>\n\na"),user("B"),assistant("<think>\n\n</think>\n\nb")],
 "reasoning twice":[user("A?"),assistant("a",reasoning_content="hm"),user("B?"),assistant("b",reasoning_content="ho")],
 "reasoning 1st":[user("A?"),assistant("a",reasoning_content="hm"),user("B?"),assistant("b"),user("C"),assistant("c",reasoning_content="x")],
 "reasoning 1st untrained":[user("A?"),assistant("a",reasoning_content="hm",train=False),user("B?"),assistant("b")],
 "calls":[user("A?"),assistant("Wait.",tool_calls=[CALL,CALL]),tool,assistant("It is 4.")],
 "call only":[user("A?"),assistant("",tool_calls=[CALL]),tool,assistant("4")],
 "call only []":[user("A?"),assistant([],tool_calls=[CALL]),tool,assistant("4")],
 "call last":[user("A?"),assistant("",tool_calls=[CALL])],
 "call reasoning":[user("A?"),assistant("",tool_calls=[CALL],reasoning_content="hm"),tool,assistant("4",reasoning_content="ho")],
}
@pytest.mark.parametrize("cfg",[dict(),dict(train_reasoning=False),dict(train_tool_calls=False),dict(rewritten_history="split"),dict(rewritten_history="mask"),dict(train_on="last",train_end="none"),dict(train_end="last"),dict(train_on="all")])
def test_look(styled,cfg):
    print("#######",cfg)
    for name in ("qwen3","qwen3 prompt thinks","mistral","llama3"):
        made=styled(name,**cfg)
        f=made.encoder.template.facts
        print("=====",name,repr(f.call_opening))
        for case,turns in CASES.items():
            try:
                out=made.look(turns,tools=TOOLS if "call" in case else None)
            except AssertionError as e: print("   ",case,"!!!!",str(e)[:600]); continue
            except Reject as r:
                print("   ",case,"| REJECT",r.reason.value,r.message[:70]); continue
            try:
                print("   ",case,"|",[(o.encoded.sample_id,o.trained,o.proven) for o in out])
            except Reject as r:
                print("   ",case,"| REJECT",r.reason.value,r.message[:80])
