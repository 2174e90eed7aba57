"""PTX text as instructions and operands. Only what LLVM writes is understood: one statement to a semicolon, registers declared in
ranges, one array of dynamic shared memory; and what inline assembly adds, blocks with names of their own."""

import re

from . import Fault

RANGES = ("%p", "%rs", "%r", "%rd", "%f", "%fd")  # as LLVM names registers


class Operand:
    __slots__ = ("kind", "name", "index", "value")

    def __init__(self, kind, name=None, index=None, value=None):
        self.kind, self.name, self.index, self.value = kind, name, index, value

    def elements(self):
        """The operands in braces, or the one there is."""
        return self.value if self.kind == "vector" else [self]

    def registers(self):
        """The registers in it, of an address and of braces too, as (name, index)."""
        if self.kind == "register":
            return [(self.name, self.index)]
        if self.kind == "address":
            return self.value.registers()
        return [r for e in self.value for r in e.registers()] if self.kind == "vector" else []


class Instruction:
    __slots__ = ("text", "opcode", "parts", "operands", "predicate", "negated", "target")

    def __init__(self, text, names):
        self.text = text
        self.predicate, self.negated, self.target = None, False, None
        if match := re.match(r"@(!?)(%?[\w$]+)\s+", text):
            self.predicate, self.negated = parse_operand(match[2], names), bool(match[1])
            text = text[match.end() :]
        opcode, _, rest = text.partition(" ")
        self.parts = opcode.split(".")
        self.opcode = self.parts[0]
        self.operands = [parse_operand(o.strip(), names) for o in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*", rest)]


class Kernel:
    """One .entry, parsed."""

    def __init__(self, name, parameters, body):
        self.name, self.parameters = name, parameters
        self.code, self.registers = [], {}
        scopes = [Scope(None)]  # those open, the kernel's first
        branches = []  # instructions with the scopes that they see
        for statement in statements(body):
            if statement == "{":
                scopes.append(Scope(scopes[-1]))
            elif statement == "}":
                scopes.pop()
            elif statement.endswith(":"):
                scopes[-1].labels[statement[:-1]] = len(self.code)
            elif statement.startswith(".reg "):
                self.declare(statement, scopes)
            elif not statement.startswith("."):
                self.code.append(Instruction(statement, scopes[-1].names))
                if self.code[-1].opcode == "bra":
                    branches.append((self.code[-1], scopes[-1]))
        for instruction, scope in branches:
            label = instruction.operands[0].name
            while label not in scope.labels:
                scope = scope.parent
            instruction.target = scope.labels[label]

    def declare(self, statement, scopes):
        """LLVM's ranges, outermost, are arrays by their names. Any other register gets an array that no other name has, as the same name in
        another block is another register."""
        kind, rest = re.fullmatch(r"\.reg \.(\w+) (.*)", statement).groups()
        for name, size in re.findall(r"(%?[\w$]+)(?:<(\d+)>)?", rest):
            if size and name in RANGES and len(scopes) == 1:
                self.registers[name[1:]] = (kind, int(size))
                continue
            array = f"{name}'{len(self.registers)}"
            self.registers[array] = (kind, int(size or 1))
            names = [f"{name}{e}" for e in range(int(size))] if size else [name]
            scopes[-1].names |= {n: Operand("register", array, e) for e, n in enumerate(names)}


class Scope:
    """A block between braces: the registers and labels that its statements may name."""

    def __init__(self, parent):
        self.parent, self.labels = parent, {}
        self.names = dict(parent.names) if parent else {}


def parse_module(text):
    """The kernels of a PTX module by name."""
    text = re.sub(r"//[^\n]*", "", text)
    kernels = {}
    for match in re.finditer(r"\.visible\s+\.entry\s+([\w$]+)\s*\((.*?)\)[^{]*\{", text, re.S):
        parameters = re.findall(r"\.param\s+\.\w+\s+(?:\.ptr\s+)?(?:\.global\s+)?(?:\.align\s+\d+\s+)?([\w$]+)", match[2])
        kernels[match[1]] = Kernel(match[1], parameters, text[match.end() : closing(text, match.end())])
    return kernels


def closing(text, start):
    """Where the brace is that closes the one before `start`."""
    depth = 1
    for brace in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.start()
    raise Fault("a brace is never closed")


def statements(body):
    """Statements without their semicolons, labels with their colons, and the braces around blocks."""
    for text in body.split(";"):
        text = re.sub(r"\s+", " ", text).strip()
        while match := re.match(r"(\$?[\w$]+:|[{}])\s*", text):
            yield match[1]
            text = text[match.end() :]
        if text:
            yield text


def parse_operand(text, names):
    """names: registers with names of their own."""
    if text in names:
        return names[text]
    if text[0] == "{":
        return Operand("vector", value=[parse_operand(o.strip(), names) for o in text[1:-1].split(",")])
    if text[0] == "[":
        match = re.fullmatch(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\d+))?\s*\]", text)
        return Operand("address", value=parse_operand(match[1], names), index=int(match[2] or 0), name=match[1])
    if text == "_":
        return Operand("sink")
    if match := re.fullmatch(r"%(rd|rs|r|p|f|fd)(\d+)", text):
        return Operand("register", name=match[1], index=int(match[2]))
    if match := re.fullmatch(r"%((?:n?tid|n?ctaid)\.[xyz])", text):
        return Operand("special", name=match[1])
    if match := re.fullmatch(r"0f([0-9A-Fa-f]{8})", text):
        return Operand("bits", value=int(match[1], 16))
    if match := re.fullmatch(r"(-?(?:0x[0-9a-fA-F]+|\d+))U?", text):
        return Operand("integer", value=int(match[1], 0))
    if not re.match(r"[A-Za-z_$]", text):
        raise Fault(f"the simulator has no operand {text}")
    return Operand("symbol", name=text)
