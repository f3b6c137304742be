"""Source snippets in languages other than Python. NAME, THING and NUM are replaced by random values."""

from typing import Final

SNIPPETS: Final = (
    "function NAME(THING) {\n  if (!THING) {\n    return null;\n  }\n  return THING.map((x) => x * NUM);\n}",
    "const NAME = async (THING) => {\n  const res = await fetch(`/api/${THING}`);\n  return res.json();\n};",
    "export class NAME {\n  private THING: number = NUM;\n  constructor(readonly id: string) {}\n}",
    "public int NAME(List<Integer> THING) {\n    int total = 0;\n    for (int i = 0; i < THING.size(); i++) {\n"
    "        total += THING.get(i);\n    }\n    return total;\n}",
    "#include <vector>\n\nint NAME(std::vector<int> THING) {\n  int best = NUM;\n  for (int x : THING)\n"
    "    if (x > best) best = x;\n  return best;\n}",
    "int NAME(char *THING) {\n    int n = 0;\n    while (*THING++) n++;\n    return n;\n}",
    "fn NAME(THING: &[i32]) -> Option<i32> {\n    THING.iter().copied().filter(|x| x % 2 == 0).max()\n}",
    'func NAME(THING []string) (int, error) {\n\tif len(THING) == 0 {\n\t\treturn 0, errors.New("empty")\n\t}\n'
    "\treturn len(THING[0]), nil\n}",
    "def NAME(THING)\n  THING.each_with_index do |x, i|\n    puts x if i > NUM\n  end\nend",
    "SELECT THING, COUNT(*) AS n\nFROM NAME\nWHERE created_at > '2023-01-01'\n"
    "GROUP BY THING\nORDER BY n DESC\nLIMIT NUM;",
    '<div class="NAME">\n  <h1>THING</h1>\n  <button onclick="NAME()">Save</button>\n</div>',
    ".NAME {\n  margin: NUMpx;\n  color: #333;\n  display: flex;\n}",
    "name: NAME\non: [push]\njobs:\n  test:\n    runs-on: ubuntu-latest\n    steps:\n"
    "      - uses: actions/checkout@v4\n      - run: make THING",
    'services:\n  THING:\n    image: NAME:latest\n    ports:\n      - "NUM:80"\n    restart: always',
    '#!/bin/bash\nfor f in *.THING; do\n  echo "$f" >> NAME.log\n  sleep NUM\ndone',
    "def NAME(THING: list[int]) -> int:\n    result = 0\n    for x in THING:\n        if x > NUM:\n"
    "            result += x\n    return result",
    'def NAME(THING):\n    """Return the number of items\n    >>> NAME([1, 2])\n    2\n    """\n    return len(THING)',
    "class NAME:\n    def __init__(self, THING):\n        self.THING = THING\n\n    def total(self):\n"
    "        return sum(self.THING) + NUM",
    "import pandas as pd\n\ndf = pd.read_csv('THING.csv')\nprint(df.groupby('NAME').mean())",
    "from typing import List\n\n\ndef NAME(THING: List[float]) -> bool:\n    for a in THING:\n        for b in THING:\n"
    "            if abs(a - b) < NUM:\n                return True\n    return False",
    "import React from 'react';\n\nexport default function NAME({ THING }) {\n"
    "  const [open, setOpen] = useState(false);\n  return <p onClick={() => setOpen(!open)}>{THING}</p>;\n}",
    "fun NAME(THING: List<String>): Map<String, Int> =\n    THING.groupingBy { it }.eachCount()",
    "<?php\nfunction NAME($THING) {\n    return array_filter($THING, fn($x) => $x > NUM);\n}",
    "@app.route('/THING')\ndef NAME():\n    data = request.get_json()\n    return jsonify(data), 200",
    "let THING = [NUM, 2, 3];\nfor (let i = 0; i <= THING.length; i++) {\n  console.log(THING[i]);\n}",
    "async def NAME(client):\n    response = await client.get('/THING', timeout=NUM)\n    response.raise_for_status()\n"
    "    return response.json()",
)
