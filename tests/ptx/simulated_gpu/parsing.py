"""PTX text as instructions and operands. Only what LLVM writes is understood: one statement to a semicolon, registers declared in
ranges, one array of dynamic shared memory."""

import re

from . import Fault


class Operand:
    __slots__ = ("kind", "name", "index", "value")

    def __init__(self, kind, name=None, index=None, value=None):
        self.kind, self.name, self.index, self.value = kind, name, index, value

    def elements(self):
        """The operands in braces, or the one there is."""
        return self.value if self.kind == "vector" else [self]


class Instruction:
    __slots__ = ("text", "opcode", "parts", "operands", "predicate", "negated", "target")

    def __init__(self, text):
        self.text = text
        self.predicate, self.negated, self.target = None, False, None
        if match := re.match(r"@(!?)%p(\d+)\s+", text):
            self.predicate, self.negated = int(match[2]), bool(match[1])
            text = text[match.end() :]
        opcode, _, rest = text.partition(" ")
        self.parts = opcode.split(".")
        self.opcode = self.parts[0]
        self.operands = [parse_operand(o.strip()) for o in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*", rest)]


class Kernel:
    """One .entry, parsed."""

    def __init__(self, name, parameters, body):
        self.name, self.parameters = name, parameters
        self.code, labels, self.registers = [], {}, {}
        for declaration in re.finditer(r"\.reg\s+\.(\w+)\s+%(\w+)<(\d+)>", body):
            self.registers[declaration[2]] = (declaration[1], int(declaration[3]))
        for statement in statements(body):
            if statement.endswith(":"):
                labels[statement[:-1]] = len(self.code)
            elif not statement.startswith("."):
                self.code.append(Instruction(statement))
        for instruction in self.code:
            if instruction.opcode == "bra":
                instruction.target = labels[instruction.operands[0].name]


def parse_module(text):
    """The kernels of a PTX module by name."""
    text = re.sub(r"//[^\n]*", "", text)
    kernels = {}
    for match in re.finditer(r"\.visible\s+\.entry\s+([\w$]+)\s*\((.*?)\)[^{]*\{(.*?)\n\}", text, re.S):
        parameters = re.findall(r"\.param\s+\.\w+\s+(?:\.ptr\s+)?(?:\.global\s+)?(?:\.align\s+\d+\s+)?([\w$]+)", match[2])
        kernels[match[1]] = Kernel(match[1], parameters, match[3])
    return kernels


def statements(body):
    """Statements without their semicolons, and labels with their colons."""
    for text in body.split(";"):
        text = re.sub(r"\s+", " ", text).strip()
        while match := re.match(r"(\$?[\w$]+):\s*", text):
            yield match[1] + ":"
            text = text[match.end() :]
        if text:
            yield text


def parse_operand(text):
    if text[0] == "{":
        return Operand("vector", value=[parse_operand(o.strip()) for o in text[1:-1].split(",")])
    if text[0] == "[":
        match = re.fullmatch(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\d+))?\s*\]", text)
        return Operand("address", value=parse_operand(match[1]), index=int(match[2] or 0), name=match[1])
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
