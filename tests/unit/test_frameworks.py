"""Routed functions in agent frameworks, with scripted models: each takes them as it would take the plain function.

Each test has at most 15 lines of what a user would write, in the function that is called `use`.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

import pytest
from boundary_cases import Permit, flag_evaluator

from producers.boundary.errors import RefusedError
from producers.boundary.router import Router
from producers.delivery.memory_emitter import MemoryEmitter
from producers.delivery.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow  # importing a framework takes seconds

WRITE: dict[str, Any] = {
    "workflow": "refunds",
    "system": "billing",
    "risk_class": "reversible_write",
    "reversibility": "manual",
}
ASKED = {"order": "4711", "euros": 12}
DONE = "refunded 12 euros for 4711"
REFUSED = "refund is denied: on_denylist [decision "


def framework(module: str) -> Any:
    """A framework; its test is skipped by name where `make setup` has not installed it."""
    return pytest.importorskip(module, reason=f"{module} is not installed; `make setup` installs it with the extra dev")


class Setting:
    """A router whose flags permit or deny everything, and what it recorded."""

    def __init__(self, *, denied: bool) -> None:
        self.denied = denied
        self.emitter = MemoryEmitter()
        self.router = Router(
            authorizer=Permit(),
            flags=flag_evaluator(denylist=denied),
            recorder=Recorder(self.emitter, source="/test"),
            environment="production",
        )

    def check(self, answer: object) -> None:
        """The model has read what came of it, and the record agrees."""
        self.emitter.assert_decided("refund", "deny" if self.denied else "allow")
        assert (REFUSED if self.denied else DONE) in str(answer)
        self.emitter.assert_executed("refund", *([] if self.denied else ["succeeded"]))


@pytest.fixture(params=[False, True], ids=["permitted", "denied"])
def setting(request: pytest.FixtureRequest) -> Setting:
    return Setting(denied=request.param)


def short(use: Callable[..., Any]) -> Callable[..., Any]:
    """A user's code, which has at most 15 lines."""
    lines = [line for line in inspect.getsource(use).splitlines()[1:] if line.strip()]
    assert len(lines) <= 15, f"{len(lines)} lines"
    return use


def test_langchain(setting: Setting) -> None:
    framework("langchain_core")
    from langchain_core.language_models import GenericFakeChatModel  # noqa: PLC0415 - only where it is installed
    from langchain_core.messages import AIMessage  # noqa: PLC0415
    from langchain_core.tools import StructuredTool, ToolException  # noqa: PLC0415

    call = {"name": "refund", "args": ASKED, "id": "call-1", "type": "tool_call"}
    model = GenericFakeChatModel(messages=iter([AIMessage(content="", tool_calls=[call])]))

    def use(router: Router) -> Any:
        def as_tool_error(refusal: RefusedError) -> None:
            raise ToolException(str(refusal))

        @router.action(**WRITE, on_refusal=as_tool_error)
        def refund(order: str, euros: int = 5) -> str:
            """Pay a customer back."""
            return f"refunded {euros} euros for {order}"

        tool = StructuredTool.from_function(refund, handle_tool_error=True)
        (asked,) = model.invoke("refund order 4711").tool_calls
        return tool, tool.invoke(asked)

    tool, message = short(use)(setting.router)
    assert (tool.name, tool.description) == ("refund", "Pay a customer back.")
    assert set(tool.args) == {"order", "euros"}
    assert tool.args["euros"]["type"] == "integer"
    assert message.status == ("error" if setting.denied else "success")
    setting.check(message.content)


def test_langgraph(setting: Setting) -> None:
    framework("langgraph.prebuilt")
    from langchain_core.messages import AIMessage  # noqa: PLC0415 - only where it is installed
    from langchain_core.runnables import RunnableConfig  # noqa: PLC0415
    from langgraph.graph import START, MessagesState, StateGraph  # noqa: PLC0415
    from langgraph.prebuilt import ToolNode  # noqa: PLC0415

    # The annotations of this module are text; a framework finds them where the function does.
    globals().update(RunnableConfig=RunnableConfig)
    call = {"name": "refund", "args": ASKED, "id": "call-1", "type": "tool_call"}

    def use(router: Router) -> Any:
        @router.action(**WRITE, exclude=("config",))
        async def refund(order: str, euros: int, config: RunnableConfig) -> str:
            """Pay a customer back."""
            return f"refunded {euros} euros for {order}, thread {config['configurable']['thread_id']}"

        graph = StateGraph(MessagesState)
        graph.add_node("model", lambda _state: {"messages": [AIMessage(content="", tool_calls=[call])]})
        graph.add_node("tools", ToolNode([refund], handle_tool_errors=True))
        graph.add_edge(START, "model")
        graph.add_edge("model", "tools")
        return graph.compile()

    graph = short(use)(setting.router)
    state = asyncio.run(graph.ainvoke({"messages": []}, {"configurable": {"thread_id": "7"}}))
    message = state["messages"][-1]
    assert message.status == ("error" if setting.denied else "success")
    assert setting.denied or message.content.endswith("thread 7")
    setting.check(message.content)


def test_pydantic_ai(setting: Setting) -> None:
    framework("pydantic_ai")
    from pydantic_ai import Agent, ModelRetry, RunContext  # noqa: PLC0415 - only where it is installed
    from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart  # noqa: PLC0415
    from pydantic_ai.models.function import FunctionModel  # noqa: PLC0415

    globals().update(RunContext=RunContext)
    offered: list[Any] = []

    def script(messages: list[Any], info: Any) -> ModelResponse:
        offered[:] = info.function_tools
        last = messages[-1].parts[-1]
        if last.part_kind == "user-prompt":
            return ModelResponse(parts=[ToolCallPart("refund", ASKED)])
        return ModelResponse(parts=[TextPart(f"{getattr(last, 'outcome', 'retry')}: {last.content}")])

    def use(router: Router) -> Any:
        def as_retry(refusal: RefusedError) -> None:
            raise ModelRetry(str(refusal))

        @router.action(**WRITE, exclude=("ctx",), on_refusal=as_retry)
        async def refund(ctx: RunContext[str], order: str, euros: int) -> str:
            """Pay a customer back."""
            return f"refunded {euros} euros for {order}, by {ctx.deps}"

        agent = Agent(FunctionModel(script), deps_type=str, tools=[refund])
        return asyncio.run(agent.run("refund order 4711", deps="the desk")).output

    output = short(use)(setting.router)
    assert set(offered[0].parameters_json_schema["properties"]) == {"order", "euros"}
    assert output.startswith("success: ") != setting.denied
    setting.check(output)


def test_openai_agents(setting: Setting) -> None:
    framework("agents")
    from agents import Agent, Model, ModelResponse, Runner, Usage, function_tool, set_tracing_disabled  # noqa: PLC0415
    from openai.types.responses import (  # noqa: PLC0415
        ResponseFunctionToolCall,
        ResponseOutputMessage,
        ResponseOutputText,
    )

    set_tracing_disabled(True)

    class Scripted(Model):
        async def get_response(self, *_: Any, **given: Any) -> ModelResponse:
            last = given["input"][-1] if isinstance(given["input"], list) else {}
            if last.get("type") == "function_call_output":
                text = ResponseOutputText(text=str(last["output"]), type="output_text", annotations=[])
                output: Any = ResponseOutputMessage(
                    id="m", content=[text], role="assistant", status="completed", type="message"
                )
            else:
                arguments = '{"order": "4711", "euros": 12}'
                output = ResponseFunctionToolCall(
                    call_id="call-1", name="refund", arguments=arguments, type="function_call"
                )
            return ModelResponse(output=[output], usage=Usage(), response_id=None)

        def stream_response(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("nobody streams here")

    def use(router: Router) -> Any:
        @function_tool
        @router.action(**WRITE, on_refusal=str)
        def refund(order: str, euros: int) -> str:
            """Pay a customer back."""
            return f"refunded {euros} euros for {order}"

        agent = Agent(name="support", model=Scripted(), tools=[refund])
        return refund, asyncio.run(Runner.run(agent, "refund order 4711")).final_output

    tool, output = short(use)(setting.router)
    assert tool.description == "Pay a customer back."
    assert set(tool.params_json_schema["properties"]) == {"order", "euros"}
    setting.check(output)


def test_fastapi(setting: Setting) -> None:
    framework("fastapi")
    from fastapi import Depends, FastAPI  # noqa: PLC0415 - only where it is installed
    from fastapi.responses import JSONResponse  # noqa: PLC0415
    from fastapi.testclient import TestClient  # noqa: PLC0415

    class Session:
        """What FastAPI injects."""

    globals().update(Session=Session)

    def use(router: Router) -> Any:
        app = FastAPI()

        @app.exception_handler(RefusedError)
        async def refused(_request: object, refusal: Exception) -> JSONResponse:
            return JSONResponse({"detail": str(refusal)}, status_code=403)

        @app.post("/refunds")
        @router.action(**WRITE, exclude=("session",))
        async def refund(order: str, euros: int, session: Session = Depends(Session)) -> str:  # noqa: B008, FAST002
            return f"refunded {euros} euros for {order}"

        return TestClient(app)

    with short(use)(setting.router) as client:
        answer = client.post("/refunds", params=ASKED)
        assert answer.status_code == (403 if setting.denied else 200)
        assert client.post("/refunds", params={"order": "4711"}).status_code == 422, "FastAPI still checks"
        names = [item["name"] for item in client.get("/openapi.json").json()["paths"]["/refunds"]["post"]["parameters"]]
    assert names == ["order", "euros"]
    setting.check(answer.json())
