import { render } from "preact";
import "uplot/dist/uPlot.min.css";
import { App, applyTheme } from "./app";
import { start } from "./live";
import "./style.css";

applyTheme();
const page = document.getElementById("page")!;
page.replaceChildren();
render(<App />, page);
void start();
